-- The roles of a node's database; run in it by a superuser, as often as you like. They have no passwords yet:
-- \password likering_node, \password likering_replication.
--
-- likering_node is for --postgres. It owns the tables: a node makes, attaches and drops partitions whenever slots move,
-- and brings its schema up to date when it starts, so a role that may do less could do neither.
-- likering_replication is for --replication, by which other nodes and their Postgres take slots from here. It acts as
-- likering_node, and is apart so that pg_hba.conf can say where it may come from, and its password can change alone.
DO $$
DECLARE
    wanted text;
    kept text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['likering_node', 'likering_replication'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            -- To take a slot's changes, and to drop the replication slot afterwards.
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS REPLICATION', wanted);
        END IF;
    END LOOP;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO likering_node, likering_replication', current_database());
    -- For publications and subscriptions.
    EXECUTE format('GRANT CREATE ON DATABASE %I TO likering_node', current_database());
    IF current_setting('server_version_num')::int >= 160000 THEN
        GRANT pg_create_subscription TO likering_node;
    ELSE
        RAISE WARNING 'before Postgres 16 only a superuser can subscribe: slots cannot move to this node';
    END IF;
    CREATE SCHEMA IF NOT EXISTS likering;
    ALTER SCHEMA likering OWNER TO likering_node;
    FOR kept IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'likering' LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO likering_node', kept);
    END LOOP;
END
$$;
GRANT likering_node TO likering_replication;
ALTER ROLE likering_replication SET role = 'likering_node';
-- To end the senders of a replication slot that is dropped.
GRANT pg_signal_backend TO likering_node;
-- To see whether a standby is streaming (--require-synchronous-standby): of others' connections only these see more than nothing.
GRANT pg_read_all_stats TO likering_node;
-- The log repeats statements that fail, and CREATE SUBSCRIPTION has the password of another node in it.
ALTER ROLE likering_node SET log_min_error_statement = 'panic';
ALTER ROLE likering_replication SET log_min_error_statement = 'panic';
