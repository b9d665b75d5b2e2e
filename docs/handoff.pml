/*
 * The protocol that moves one slot from node A to node B, for the model checker spin (https://spinroot.com).
 * handoff-model.md beside this file says what was found; scripts/model runs everything. By hand:
 *
 *   spin -a -DB_TAKEOVERS=1 docs/handoff.pml && gcc -O1 -DSAFETY -DVECTORSZ=512 -o pan pan.c && ./pan -m20000 -n
 *   spin -t -p -DB_TAKEOVERS=1 docs/handoff.pml      (with the same -D: tells the run that led to an error)
 *
 * WHAT IS MODELLED
 *   the topology database   the move's row (state, attempt) and the slot's epoch, changed only by compare-and-set; it
 *                           may go away, also between doing a CAS and answering it
 *   node A                  a process that takes over (generation), serves writes one by one through its queue, each
 *                           behind the fence, answers FreezeSlot, and unfreezes when the topology says so. It may
 *                           die, or be overtaken by a second one while it is only paused
 *   A's Postgres            with a synchronous standby: what is committed can be seen and is replicated to B at once,
 *                           but is confirmed only when the standby has it; a failover forgets the rest. A
 *                           transaction whose client died is finished or rolled back, maybe much later
 *   node B                  a process that drives the move, and serves writes once it owns the slot. Like A's
 *   B's Postgres            applies the replication stream in order, whether or not B's process lives
 *   a router, an operator   the router may believe an old epoch; the operator may cancel, and revert
 *
 * WHAT IS LEFT OUT, AND WHY THAT HIDES NOTHING THAT IS CLAIMED HERE
 *   delays and timers       nothing in Promela says how long a step takes: a paused process, a slow network and every
 *                           timeout are runs in which the others go first. What a timer decides ("gives up") is a step
 *                           that may happen at any time, a bounded number of times
 *   reads                   none of the properties is about them; that A has ended its reads before B commits, so that the
                           move goes to ACTIVATING at once, is a choice that B may make at any time
 *   unlikes, other posts    one post and likes only: a set that grows, and its count. The count is a row of its own
 *                           and is replicated as such; that is what can go wrong with it
 *   the standby's lag       the standby takes over everything at once that has been committed. That it has only some
 *                           of it is the run in which it did so earlier
 *   B's standby, B's fail-  B's Postgres recovers what it has confirmed. The one commit of B that does not wait for
 *   over, A's old primary   that, taking the slot, may be lost (B_CRASHES); else a shutdown is a delay. An old primary
 *                           cannot confirm anything any more, so it answers nobody
 *   VERIFIED, RETIRED       they come after the end; nothing depends on them
 *   the routers' freshness  whoever asks with a wrong epoch is refused, and asks again or does not
 *
 * THE PROPERTIES (each has a name, which the checker prints when it does not hold)
 *   two_writers                    both nodes' slots rows say owner
 *   epoch_went_back, epoch_ahead   a node's epoch fell, or is higher than the topology's
 *   write_after_freeze             a write is committed on A although its epoch is no longer the slot's
 *   commit_over_late_write         a move is committed although a write was committed on A after its freeze
 *   activated_without_commit       B becomes writable when the topology does not say (B, e + 1) and ACTIVATING
 *   unfrozen_without_abort         A becomes writable at e though its attempt may still win, or at e + 2 not reverted
 *   acknowledged_write_lost        a writable owner lacks a write that was acknowledged
 *   count_wrong                    the count of a writable owner is not the number of its likes
 *   ended_undone                   nothing happens any more, and the move is not ACTIVE, CANCELLED or REVERTED
 *   ended_without_writable_owner   nothing happens any more, and the topology's owner does not accept writes
 * The last two speak of the end of a run. That every run has an end is checked too, by the verifier's search for
 * cycles (-DNP, pan -l): there is none, so no fairness between the processes has to be assumed.
 *
 * HOW MUCH HAPPENS IN A RUN: the numbers below, with -D. "At most": a run with less is among those checked.
 */
#ifndef WRITES
#define WRITES 2          /* different likes that the router sends, all of one post; up to 3 */
#endif
#ifndef RETRIES
#define RETRIES 0         /* how many of them it may send once more when they are not acknowledged */
#endif
#ifndef A_TAKEOVERS
#define A_TAKEOVERS 0     /* a second process of A takes over; the first is dead, or was only paused: at most 1 */
#endif
#ifndef B_TAKEOVERS
#define B_TAKEOVERS 0     /* the same of B: at most 1 */
#endif
#ifndef B_CRASHES
#define B_CRASHES 0       /* B's Postgres is shut down at once, and recovers */
#endif
#ifndef FAILOVERS
#define FAILOVERS 0       /* A's Postgres fails over to its standby: at most 1 */
#endif
#ifndef SLOT_LOSSES
#define SLOT_LOSSES 0     /* A's Postgres drops the replication slot */
#endif
#ifndef OUTAGES
#define OUTAGES 0         /* the topology database goes away */
#endif
#ifndef A_GIVES_UP
#define A_GIVES_UP 0      /* A has not heard from B while frozen, and tries CAS FREEZING -> ABORTED */
#endif
#ifndef B_GIVES_UP
#define B_GIVES_UP 0      /* B is past its pause budget, and tries the same */
#endif
#ifndef CANCELS
#define CANCELS 0         /* the operator cancels */
#endif
#ifndef REVERTS
#define REVERTS 0         /* the operator reverts the slot */
#endif
#ifndef LATE_FREEZES
#define LATE_FREEZES 0    /* a second copy of a FreezeSlot stays in the network and arrives whenever it likes */
#endif
#ifndef LATE_ANSWERS
#define LATE_ANSWERS 0    /* 1: A acts on what it read of the topology whenever it likes, and not only at once */
#endif
/*
 * THE MISTAKES, each made with one -D. The checker must catch every one.
 *   UNFREEZE_BY_TIMER          A unfreezes when it has not heard from B
 *   DRAIN_FROM_B_ALONE         the seal in B is enough: A's answer is not waited for
 *   ACTIVATE_BEFORE_COMMIT     B owns the slot once drained, and commits in the topology afterwards
 *   SAME_ATTEMPT_ON_TAKEOVER   a B that starts anew keeps the attempt
 *   FREEZE_OUTSIDE_QUEUE       the freeze does not queue behind the write that is being committed
 *   CHECK_OUTSIDE_TRANSACTION  the owner is checked before the transaction, not in it
 *   ABORT_WITHOUT_CAS          ABORTED is written whatever the row says by then
 *   RECREATED_SLOT             a replication slot that was lost is created once more, under its name
 * And, of rules that are easily overlooked:
 *   ANY_TIMELINE               B does not compare the timeline of A's answer with that of its copy
 *   OLDER_FREEZE_ACCEPTED      A obeys a FreezeSlot of an older attempt than one it has seen
 *   NO_FENCE_ON_B              B's transactions in its own database are not fenced
 *   REPEAT_WITHOUT_COMMIT      a FreezeSlot of a slot that is frozen already is answered without another commit
 *   UNFREEZE_ON_ABORTED_ONLY   A waits to see ABORTED itself, and not also a later attempt
 *   ACTIVE_BEFORE_FLUSH        B says ACTIVE though its taking of the slot may still be lost
 *   EARLIER_STATE_ENDS         A takes a state that comes before FREEZING for the end of the attempt that froze the
 *                              slot, though it may have been read before the freeze (with LATE_ANSWERS)
 */

/* ---- the topology database -------------------------------------------------------------------------------------- */

mtype:move = { PLANNED, COPYING, CATCHING_UP, FREEZING, COMMITTED, ACTIVATING, ACTIVE, ABORTED, CANCELLED, REVERTED };

mtype:move move = PLANNED;
byte attempt = 1;

#define E 1               /* the epoch before the move */
byte slot_epoch = E;      /* the slot's row; B owns it at E + 1, else A */
#define OWNED_BY_B (slot_epoch == E + 1)

bool topology_up = true;
byte outages = OUTAGES;

/*
 * A CAS on (state, attempt). Nobody concludes anything from a CAS that was not answered: all look at the row again.
 * `won`: this process, and no other, has taken the attempt from PLANNED to COPYING. Only that is taken from an answer,
 * since the row does not tell who did it.
 */
inline cas(from, at, to, then) {
	atomic {
		topology_up ->
		won = false;
		if
		:: move == from && attempt == at ->
			if
			:: from == FREEZING && (to == COMMITTED || to == ACTIVATING) ->
				slot_epoch = E + 1;
				check_late_commit()
			:: else
			fi;
			move = to;
			attempt = then;
			won = (to == COPYING)
		:: else
		fi;
		if
		:: outages > 0 ->      /* it goes away before it has answered */
			outages--;
			topology_up = false;
			won = false
		:: true
		fi
	}
}

/* ---- the nodes' databases --------------------------------------------------------------------------------------- */

mtype:row = { OWNER, FROZEN, MOVED };

typedef Database {
	mtype:row state;       /* the slots row: state, epoch, and the last attempt for which it was frozen */
	byte epoch;
	byte frozen_for;
	byte generation;       /* the writer row */
	byte slots_seq;
	byte edges;            /* the likes, one bit each */
	byte count             /* the post's row */
}

Database a, standby, b;
byte a_writer_lock;        /* which process of A holds the lock on the writer row, that is, is past the fence */
byte a_timeline = 1;
byte failovers = FAILOVERS;

bool b_unflushed;          /* B has taken the slot, and may forget that when it crashes */
byte b_copy;               /* the attempt for which B has tables; 0: it has none */
byte b_timeline;           /* A's timeline when they were copied */
byte b_seal, b_seal_sum;   /* the seal that B has received: of which attempt, and the sum in it */

mtype:record = { LIKE, SEAL };
byte replication_slot;     /* on A, for B: the attempt in its name; 0: there is none */
chan stream = [6] of { mtype:record, byte, byte };     /* what it has not delivered yet: LIKE, number, count of the
                                                          post; or SEAL, attempt, sum */

/* ---- messages --------------------------------------------------------------------------------------------------- */

chan to_a = [1] of { byte, byte };     /* a write: its number, the epoch that the router believes */
chan to_b = [1] of { byte, byte };
byte acked;                            /* the writes that were acknowledged, one bit each */

byte freeze_asked;                     /* FreezeSlot(attempt); it stands until answered, that is, B repeats it */
byte freeze_late;                      /* a copy of one that is still on its way; 0: none */
byte freeze_answered;                  /* A's last answer: for which attempt, whether it is frozen, A's timeline */
bool freeze_granted;
byte answer_timeline;

/* ---- what is left of what may happen ---------------------------------------------------------------------------- */

byte a_takeovers = A_TAKEOVERS, b_takeovers = B_TAKEOVERS, slot_losses = SLOT_LOSSES;
byte a_gives_up = A_GIVES_UP, b_gives_up = B_GIVES_UP, late_freezes = LATE_FREEZES;
byte b_crashes = B_CRASHES;
byte cancels = CANCELS, reverts = REVERTS;
bool a_killed, b_killed;               /* the first process of A, of B */

/* ---- the properties, as far as they are checked where something is done ----------------------------------------- */

bool two_writers, epoch_went_back, epoch_ahead, write_after_freeze, commit_over_late_write, activated_without_commit;
bool unfrozen_without_abort, acknowledged_write_lost, count_wrong, ended_undone, ended_without_writable_owner;
byte late_commit;                      /* the attempt after whose freeze a write was committed on A; 0: none was */

inline violates(what) {
	what = true;
	assert(!what)
}

inline check_late_commit() {
	if
	:: late_commit == attempt -> violates(commit_over_late_write)
	:: else
	fi
}

inline check_write(at) {
	if
	:: slot_epoch != at -> violates(write_after_freeze)
	:: else
	fi;
	if
	:: a.state != OWNER -> late_commit = a.frozen_for
	:: else
	fi
}

inline check_row(to, at) {
	if
	:: at < a.epoch -> violates(epoch_went_back)
	:: to == OWNER && at == E && (OWNED_BY_B || attempt < frozen_for || attempt == frozen_for && move != ABORTED) ->
		violates(unfrozen_without_abort)
	:: to == OWNER && at != E && move != REVERTED ->
		violates(unfrozen_without_abort)
	:: else
	fi
}

inline check_activation() {
	if
	:: b.epoch > E + 1 -> violates(epoch_went_back)
	:: !OWNED_BY_B || move != ACTIVATING && move != ACTIVE -> violates(activated_without_commit)
	:: else
	fi
}

/* ---- helpers ---------------------------------------------------------------------------------------------------- */

#define BIT(number) (1 << (number))
#define ONES(bits) (((bits) & 1) + (((bits) >> 1) & 1) + (((bits) >> 2) & 1))

inline copy_database(to, from) {
	to.state = from.state;
	to.epoch = from.epoch;
	to.frozen_for = from.frozen_for;
	to.generation = from.generation;
	to.slots_seq = from.slots_seq;
	to.edges = from.edges;
	to.count = from.count
}

inline into_stream(record, what, sum) {
	if
	:: replication_slot != 0 ->
		assert(nfull(stream));
		stream ! record, what, sum
	:: else
	fi
}

inline lose_replication_slot() {
	replication_slot = 0;
	do
	:: nempty(stream) -> stream ? _, _, _
	:: empty(stream) -> break
	od
}

/* ---- A ---------------------------------------------------------------------------------------------------------- */

/* The first statement of each writing transaction: UPDATE writer ... WHERE generation = ... AND slots_seq = ... */
#define FENCE_HOLDS (a.generation == generation && a.slots_seq == slots_seq)

/* A commit has returned: the standby has it. After a failover the connection is gone, and nothing returns. */
#define CONFIRMED(on_standby) (a_timeline == timeline && (failovers == 0 || (on_standby)))
#define CONNECTION_LOST (a_timeline != timeline)

inline load_slots_row() {
	slots_seq = a.slots_seq;
	state = a.state;
	epoch = a.epoch;
	frozen_for = a.frozen_for;
	timeline = 0
}

inline commit_like(which, at) {
	check_write(at);
	if
	:: a.edges & BIT(which)
	:: else ->
		a.edges = a.edges | BIT(which);
		a.count++;
		into_stream(LIKE, which, a.count)
	fi;
	a_writer_lock = 0
}

inline freeze_row(which) {
	a.state = FROZEN;
	a.frozen_for = which;
	a.slots_seq++;
	into_stream(SEAL, which, a.count)
}

inline answer_freeze(which, granted) {
	d_step {
		if
		:: which >= freeze_answered ->
			freeze_answered = which;
			freeze_granted = granted;
			answer_timeline = timeline
		:: else
		fi
	}
}

/* Slots row := state, epoch. What is in memory changes when the commit has returned, not before. */
inline change_row(to, at) {
	atomic {
		a_writer_lock == 0 ->
		if
		:: !FENCE_HOLDS -> goto fenced
		:: else ->
			check_row(to, at);
			a.state = to;
			a.epoch = at;
			a.slots_seq++;
			timeline = a_timeline
		fi
	}
	if
	:: atomic { CONFIRMED(standby.slots_seq > slots_seq) ->
		slots_seq++;
		state = to;
		epoch = at;
		timeline = 0 }
	:: CONNECTION_LOST -> goto reload
	fi
}

/* What A knows of the topology. Its attempt is dead when it says ABORTED, or has gone on to a later one. */
#define ROW_OF_MINE(what) (topology_up && move == what && attempt == frozen_for)
#ifdef UNFREEZE_ON_ABORTED_ONLY
#define ATTEMPT_DEAD ROW_OF_MINE(ABORTED)
#else
#define ATTEMPT_DEAD (ROW_OF_MINE(ABORTED) || topology_up && attempt > frozen_for)
#endif

/* The same by what A has read some time ago. */
#ifdef EARLIER_STATE_ENDS
#define READ_AN_END (read_move == ABORTED || read_move == PLANNED || read_move == COPYING || read_move == CATCHING_UP)
#else
#define READ_AN_END (read_move == ABORTED)
#endif
#define READ_DEAD (READ_AN_END && read_attempt == frozen_for || read_attempt > frozen_for)

proctype NodeA(byte me) {
#if LATE_ANSWERS
	mtype:move read_move = PLANNED;
	byte read_attempt;
#endif
	byte generation, slots_seq, epoch, frozen_for;     /* what it has in memory */
	mtype:row state;
	byte number, sent_epoch;                           /* the write in hand */
	byte asked, awaited;                               /* the FreezeSlot in hand, and its slots_seq */
	byte timeline;                                     /* of the connection on which it waits for a commit */
	bool won;

	{
	timeline = a_timeline;

take_over:
	do
	:: atomic { a_writer_lock == 0 ->
		a.generation++;
		generation = a.generation;
		timeline = a_timeline }
		if
#ifdef REPEAT_WITHOUT_COMMIT
		:: atomic { true -> load_slots_row(); break }
#else
		:: atomic { CONFIRMED(standby.generation >= generation) -> load_slots_row(); break }
#endif
		:: CONNECTION_LOST     /* once more */
		fi
	od;

end_serving:
	do
	/* A write. */
	:: atomic { to_a ? number, sent_epoch ->
		if
		:: state == OWNER && epoch == sent_epoch
		:: else ->             /* refused */
			number = 0;
			sent_epoch = 0;
			goto end_serving
		fi }
		atomic {
			a_writer_lock == 0 ->
			if
#ifndef CHECK_OUTSIDE_TRANSACTION
			:: !FENCE_HOLDS -> goto fenced
#endif
			:: else ->
				a_writer_lock = me;
				timeline = a_timeline
			fi
		}
#ifdef FREEZE_OUTSIDE_QUEUE
		/* Another connection of the same process freezes. */
		if
		:: atomic { a_writer_lock == me && freeze_asked > a.frozen_for && a.state == OWNER ->
			asked = freeze_asked;
			freeze_row(asked);
			load_slots_row();
			timeline = a_timeline }
			if
			:: CONFIRMED(standby.slots_seq >= slots_seq) -> answer_freeze(asked, true)
			:: CONNECTION_LOST
			fi
		:: true
		fi;
#endif
		atomic {
			if
			:: a_writer_lock == me -> commit_like(number, sent_epoch)
			:: else -> goto reload       /* the transaction went with the old primary */
			fi
		}
		if
		:: atomic { CONFIRMED(standby.edges & BIT(number)) ->
			acked = acked | BIT(number);
			number = 0;
			sent_epoch = 0;
			timeline = 0 }
		:: CONNECTION_LOST -> goto reload
		fi

	/* FreezeSlot: next in the queue. */
	:: atomic { (freeze_late != 0 || freeze_asked > freeze_answered) && a_writer_lock == 0 ->
		if
		:: freeze_late != 0 ->
			asked = freeze_late;
			freeze_late = 0
		:: freeze_asked > freeze_answered ->
			asked = freeze_asked
		fi;
		timeline = a_timeline;
		if
		:: !FENCE_HOLDS -> goto fenced
		:: FENCE_HOLDS && a.state == FROZEN && a.frozen_for == asked ->     /* a repetition */
#ifdef REPEAT_WITHOUT_COMMIT
			answer_freeze(asked, true);
			timeline = 0;
			asked = 0;
			goto end_serving
#else
			skip
#endif
#ifdef OLDER_FREEZE_ACCEPTED
		:: FENCE_HOLDS && a.epoch == E && (a.state == OWNER || a.state == FROZEN && asked != a.frozen_for) ->
#else
		:: FENCE_HOLDS && a.epoch == E && (a.state == OWNER || a.state == FROZEN) && asked > a.frozen_for ->
#endif
			freeze_row(asked)
		:: else ->
			answer_freeze(asked, false);
			timeline = 0;
			asked = 0;
			goto end_serving
		fi;
		awaited = a.slots_seq }
		if
		:: atomic { CONFIRMED(standby.slots_seq >= awaited) ->
			answer_freeze(asked, true);
			slots_seq = awaited;
			state = FROZEN;
			epoch = E;
			frozen_for = asked;
			timeline = 0;
			awaited = 0;
			asked = 0 }
		:: CONNECTION_LOST -> goto reload
		fi

	/* What the topology says. */
	:: state == FROZEN && ATTEMPT_DEAD ->
		change_row(OWNER, E)
#if LATE_ANSWERS
	:: atomic { topology_up && (read_move != move || read_attempt != attempt) ->
		read_move = move;
		read_attempt = attempt }
	:: state == FROZEN && READ_DEAD ->
		change_row(OWNER, E)
#endif
	:: state == FROZEN && ROW_OF_MINE(REVERTED) ->
		change_row(OWNER, E + 2)
	:: state == FROZEN && ROW_OF_MINE(ACTIVE) ->
		change_row(MOVED, E)

	/* Nothing heard from B for a while. */
	:: atomic { state == FROZEN && ROW_OF_MINE(FREEZING) && a_gives_up > 0 -> a_gives_up-- }
#ifdef UNFREEZE_BY_TIMER
		change_row(OWNER, E)
#else
#ifdef ABORT_WITHOUT_CAS
		atomic { topology_up -> move = ABORTED }
#else
		cas(FREEZING, frozen_for, ABORTED, frozen_for)
#endif
#endif
	od;

	/* Connected again; what became of the last transaction is not known. */
reload:
	atomic {
		timeline = a_timeline;
		number = 0;
		sent_epoch = 0;
		asked = 0;
		awaited = 0
	}
	if
	:: a.generation != generation -> goto fenced
	:: atomic { a.generation == generation && CONFIRMED(standby.slots_seq == a.slots_seq) ->
		load_slots_row();
		goto end_serving }
	:: CONNECTION_LOST -> goto reload
	fi;

fenced:
	if
	:: a.generation == generation && a.slots_seq != slots_seq -> goto reload
	:: a.generation < generation -> goto take_over     /* a failover has forgotten that it took over */
	:: else                                            /* another process is the writer: the end */
	fi

	} unless {
		a_killed && me == 1 ->
		atomic {               /* what it has sent may still be committed, or is rolled back */
			if
			:: a_writer_lock == me -> commit_like(number, sent_epoch)
			:: a_writer_lock == me -> a_writer_lock = 0
			:: a_writer_lock != me
			fi
		}
	}
}

/* Confirms A's commits. */
proctype Standby() {
end:
	do
	:: d_step { failovers > 0 && (standby.generation != a.generation || standby.slots_seq != a.slots_seq ||
	                              standby.edges != a.edges) ->
		copy_database(standby, a) }
	od
}

/* ---- B ---------------------------------------------------------------------------------------------------------- */

#if defined(DRAIN_FROM_B_ALONE)
#define ANSWERED true
#elif defined(ANY_TIMELINE)
#define ANSWERED (freeze_answered == mine && freeze_granted)
#else
#define ANSWERED (freeze_answered == mine && freeze_granted && answer_timeline == b_timeline)
#endif
#define DRAINED (ANSWERED && b_copy == mine && b_seal == mine && b_seal_sum == b.count)
#define REFUSED (freeze_answered == mine && (!freeze_granted || answer_timeline != b_timeline))
#define STREAM_LOST (replication_slot != mine)

#define FENCED (b.generation != generation)
#define ROW(what) (topology_up && move == what && !FENCED)
#define ROW_OF_MY_ATTEMPT(what) (topology_up && move == what && attempt == mine)

inline fence_on_b() {
#ifdef NO_FENCE_ON_B
	skip
#else
	if
	:: FENCED -> goto fenced
	:: else
	fi
#endif
}

inline drop_tables() {
	b.edges = 0;
	b.count = 0;
	b_copy = 0;
	b_seal = 0;
	b_seal_sum = 0
}

/* A new replication slot, named by the attempt, and the snapshot that belongs to it. The fence is checked last. */
inline copy_in_snapshot() {
	atomic {
		fence_on_b();
		drop_tables();
		if
		:: replication_slot != mine ->
			lose_replication_slot();   /* that of an earlier attempt means nothing any more */
			replication_slot = mine
		:: else                        /* only with SAME_ATTEMPT_ON_TAKEOVER */
		fi;
		b.edges = a.edges;
		b.count = a.count;
		b_copy = mine;
		b_timeline = a_timeline
	}
}

inline raise_attempt() {
	atomic {
		topology_up ->
		if
		:: move == COPYING -> cas(COPYING, seen, PLANNED, seen + 1)
		:: move == CATCHING_UP -> cas(CATCHING_UP, seen, PLANNED, seen + 1)
		:: else
		fi;
		seen = 0
	}
}

inline own_slot() {
	atomic {
		fence_on_b();
		check_activation();
		b_unflushed = (b_unflushed || b.state != OWNER) && b_crashes > 0;
		b.state = OWNER;
		b.epoch = E + 1
	}
}

/* A commit that waits for the disk, and so for all commits before it. */
inline flush_b() {
	atomic {
		fence_on_b();
#ifndef ACTIVE_BEFORE_FLUSH
		b_unflushed = false
#endif
	}
}

/*
 * Each alternative looks at the move's row first and acts afterwards: between the two anything may happen, also that
 * this process is paused for long and another one takes over.
 */
proctype NodeB(byte me) {
	byte generation;
	byte mine;                 /* the attempt that this process has begun itself */
	byte seen;                 /* the attempt in the row when it looked */
	byte number, sent_epoch;
	bool won;

	{
	atomic {
		b.generation++;
		generation = b.generation
	}

end_driving:
	do
	/* A write: one transaction. That fence, ownership and commit belong together is modelled on A. */
	:: atomic { to_b ? number, sent_epoch ->
		if
		:: !FENCED && b.state == OWNER && b.epoch == sent_epoch ->
			if
			:: b.edges & BIT(number)
			:: else ->
				b.edges = b.edges | BIT(number);
				b.count++
			fi;
			b_unflushed = false;
			acked = acked | BIT(number)
		:: else
		fi;
		number = 0;
		sent_epoch = 0 }

	:: atomic { ROW(PLANNED) -> seen = attempt }
		atomic {
			cas(PLANNED, seen, COPYING, seen);
			if
			:: won -> mine = seen
			:: else
			fi;
			won = false;
			seen = 0
		}

	/* Begun by another process, or by this one without knowing that the CAS was done: anew. */
	:: atomic { (ROW(COPYING) || ROW(CATCHING_UP)) && attempt != mine -> seen = attempt }
#ifdef SAME_ATTEMPT_ON_TAKEOVER
		atomic {
			fence_on_b();
			mine = seen;
			seen = 0;
			drop_tables()
		}
#else
		raise_attempt()
#endif
	:: atomic { ROW(FREEZING) && attempt != mine -> seen = attempt }
		atomic { cas(FREEZING, seen, ABORTED, seen); seen = 0 }

	:: (ROW_OF_MY_ATTEMPT(COPYING) || ROW_OF_MY_ATTEMPT(CATCHING_UP)) && b_copy != mine ->
		copy_in_snapshot()
	:: ROW_OF_MY_ATTEMPT(COPYING) && b_copy == mine ->
		cas(COPYING, mine, CATCHING_UP, mine)
	:: ROW_OF_MY_ATTEMPT(CATCHING_UP) && b_copy == mine && !STREAM_LOST ->
		cas(CATCHING_UP, mine, FREEZING, mine)

	:: atomic { ROW_OF_MY_ATTEMPT(FREEZING) && freeze_asked != mine ->
		freeze_asked = mine;
		if
		:: late_freezes > 0 ->
			late_freezes--;
			freeze_late = mine
		:: true
		fi }
	:: ROW_OF_MY_ATTEMPT(FREEZING) && DRAINED ->
#ifdef ACTIVATE_BEFORE_COMMIT
		own_slot();
#endif
		if
		:: cas(FREEZING, mine, COMMITTED, mine)
		:: cas(FREEZING, mine, ACTIVATING, mine)     /* A has said that its reads have ended */
		fi

	/* The attempt is dead: the stream was lost, A refuses, A's timeline is another one, the sums differ although the
	   seal is here, or it takes too long. */
#ifdef RECREATED_SLOT
	:: atomic { (ROW_OF_MY_ATTEMPT(CATCHING_UP) || ROW_OF_MY_ATTEMPT(FREEZING)) && b_copy == mine && STREAM_LOST ->
		replication_slot = mine;
		b_timeline = a_timeline }
#else
	:: atomic { ROW_OF_MY_ATTEMPT(CATCHING_UP) && b_copy == mine && STREAM_LOST -> seen = mine }
		raise_attempt()
	:: ROW_OF_MY_ATTEMPT(FREEZING) && (b_copy != mine || STREAM_LOST) && !DRAINED ->
		cas(FREEZING, mine, ABORTED, mine)
#endif
	:: ROW_OF_MY_ATTEMPT(FREEZING) && REFUSED ->
		cas(FREEZING, mine, ABORTED, mine)
	:: ROW_OF_MY_ATTEMPT(FREEZING) && b_copy == mine && b_seal == mine && b_seal_sum != b.count ->
		cas(FREEZING, mine, ABORTED, mine)
	:: atomic { ROW_OF_MY_ATTEMPT(FREEZING) && b_gives_up > 0 -> b_gives_up-- }
		cas(FREEZING, mine, ABORTED, mine)
	:: atomic { ROW(ABORTED) -> seen = attempt }
		atomic {
			fence_on_b();
			drop_tables()
		}
		atomic { cas(ABORTED, seen, PLANNED, seen + 1); seen = 0 }

	/* Committed: whichever process of B is there goes on. */
	:: atomic { ROW(COMMITTED) -> seen = attempt }
		atomic { cas(COMMITTED, seen, ACTIVATING, seen); seen = 0 }
	:: atomic { ROW(ACTIVATING) -> seen = attempt }
		own_slot();
		flush_b();
		atomic {
			if
			:: b.state == OWNER -> cas(ACTIVATING, seen, ACTIVE, seen)
			:: else                /* lost in between, and so was the connection: anew */
			fi;
			seen = 0
		}

	:: FENCED -> break
	od;

fenced:
	skip
	} unless {
		b_killed && me == 1
	}
}

/* B's Postgres. Applying before CATCHING_UP changes nothing: B looks at the result only later. */
proctype Subscription() {
	mtype:record record;
	byte what, sum;

end:
	do
	:: atomic { b_copy != 0 && replication_slot == b_copy && nempty(stream) ->
		stream ? record, what, sum;
		if
		:: record == LIKE ->
			b.edges = b.edges | BIT(what);
			b.count = sum
		:: record == SEAL ->
			b_seal = what;
			b_seal_sum = sum
		fi;
		record = 0;
		what = 0;
		sum = 0 }
	od
}

/* ---- the others ------------------------------------------------------------------------------------------------- */

proctype Topology() {
end:
	do
	:: !topology_up -> topology_up = true
	od
}

inline send(which) {
	if
	:: believed == E + 1 -> to_b ! which, believed
	:: else -> to_a ! which, believed
	fi
}

/* Sends each write once, and some once more; it does not wait for answers. */
proctype Router() {
	byte next, believed = E, retries = RETRIES;

end:
	do
	:: next < WRITES ->
		send(next);
		next++
	:: atomic { retries > 0 && next > 0 && !(acked & BIT(next - 1)) -> retries-- }
		send(next - 1)
	:: topology_up && believed != slot_epoch && (next < WRITES || retries > 0) ->
		believed = slot_epoch
	od
}

/* A CAS that fails changes nothing, so reading the row and the CAS are one step here. */
proctype Operator() {
end:
	do
	:: atomic { topology_up && cancels > 0 ->
		cancels--;
		if
		:: move == PLANNED || move == COPYING || move == CATCHING_UP -> move = CANCELLED
		:: move == FREEZING -> move = ABORTED
		:: else
		fi }
	:: atomic { topology_up && reverts > 0 && move == COMMITTED ->
		reverts--;
		move = REVERTED;
		slot_epoch = E + 2 }
	od
}

proctype Faults() {
	do
	:: atomic { a_takeovers > 0 ->
		a_takeovers--;
		if
		:: a_killed = true
		:: true                /* only paused: it goes on some time */
		fi;
		run NodeA(2) }
	:: atomic { b_takeovers > 0 ->
		b_takeovers--;
		if
		:: b_killed = true
		:: true
		fi;
		run NodeB(2) }
	:: atomic { b_crashes > 0 ->
		b_crashes--;
		if
		:: b_unflushed ->
			b_unflushed = false;
			b.state = MOVED
		:: else
		fi }
	:: atomic { failovers > 0 ->
		failovers--;
		copy_database(a, standby);
		a_timeline++;
		a_writer_lock = 0;
		lose_replication_slot() }
	:: atomic { slot_losses > 0 && replication_slot != 0 ->
		slot_losses--;
		lose_replication_slot() }
	:: atomic { outages > 0 && topology_up ->
		outages--;
		topology_up = false }
	:: d_step { true ->        /* nothing more fails, and the operator has gone home */
		a_takeovers = 0;
		b_takeovers = 0;
		b_crashes = 0;
		b_unflushed = false;
		failovers = 0;
		slot_losses = 0;
		outages = 0;
		cancels = 0;
		reverts = 0 }
		break
	od
}

/* ---- the properties that must hold in every state, and at the end ------------------------------------------------ */

#define ENDED (move == ACTIVE || move == CANCELLED || move == REVERTED)
#define A_WRITABLE (a.state == OWNER && a.epoch == slot_epoch && !OWNED_BY_B)
#define B_WRITABLE (b.state == OWNER && b.epoch == slot_epoch && OWNED_BY_B)

proctype Monitor() {
	do
	:: atomic { a.state == OWNER && b.state == OWNER -> violates(two_writers) }
	:: atomic { a.epoch > slot_epoch || b.epoch > slot_epoch -> violates(epoch_ahead) }
	:: atomic { a.state == OWNER && (acked & ~a.edges) != 0 -> violates(acknowledged_write_lost) }
	:: atomic { b.state == OWNER && (acked & ~b.edges) != 0 -> violates(acknowledged_write_lost) }
	:: atomic { a.count != ONES(a.edges) -> violates(count_wrong) }
	:: atomic { b.state == OWNER && b.count != ONES(b.edges) -> violates(count_wrong) }
	:: atomic { timeout ->
		if
		:: !ENDED -> violates(ended_undone)
		:: ENDED && !A_WRITABLE && !B_WRITABLE -> violates(ended_without_writable_owner)
		:: else -> break
		fi }
	od
}

init {
	atomic {
		a.state = OWNER;
		a.epoch = E;
		copy_database(standby, a);
		run NodeA(1);
		run NodeB(1);
		run Standby();
		run Subscription();
		run Topology();
		run Router();
		run Operator();
		run Faults();
		run Monitor()
	}
}
