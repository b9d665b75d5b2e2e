/**
 * Likes a post, pages through who likes it, and watches its count, with nothing but the protos.
 *
 *     npm ci && npm start -- ADDRESS
 *
 * ADDRESS is the router's host:port, localhost:50051 for `scripts/up`. Ends by itself; 1 when a call has failed.
 */

import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import * as grpc from "@grpc/grpc-js";
import * as protoLoader from "@grpc/proto-loader";

const TIMEOUT_MS = 10_000;

interface LikeCount {
  post_id: string;
  count: string; // 64-bit numbers are strings: a number of JavaScript would lose digits
  version: string;
}
interface LikeResponse {
  outcome: string;
  like_count: LikeCount;
}
interface ListLikersResponse {
  likes: { user_id: string }[];
  next_page_token: string;
  total: LikeCount;
}
interface WatchLikeCountsResponse {
  like_counts: LikeCount[];
}

/** LikeService, made from the protos when the program starts. */
function connect(address: string): grpc.Client {
  const directories = ["../../../protos", "../protos"].map((path) => fileURLToPath(new URL(path, import.meta.url)));
  const definition = protoLoader.loadSync("likering/v1/like_service.proto", {
    includeDirs: directories,
    keepCase: true,
    longs: String,
    enums: String,
    defaults: true,
  });
  const root = grpc.loadPackageDefinition(definition) as any;
  return new root.likering.v1.LikeService(address, grpc.credentials.createInsecure());
}

/** One call, as a promise. Waits for the server to come up, within the deadline. */
function call<Response>(client: grpc.Client, method: string, request: object): Promise<Response> {
  const options = { deadline: Date.now() + TIMEOUT_MS };
  const metadata = new grpc.Metadata({ waitForReady: true });
  return new Promise((resolve, reject) => {
    (client as any)[method](request, metadata, options, (error: grpc.ServiceError | null, response: Response) =>
      error ? reject(error) : resolve(response),
    );
  });
}

/** The time of a click. With it, a like that is sent again after an unknown outcome is safe, however late. */
function now(): { seconds: number; nanos: number } {
  const milliseconds = Date.now();
  return { seconds: Math.floor(milliseconds / 1000), nanos: (milliseconds % 1000) * 1_000_000 };
}

async function like(client: grpc.Client, post: string, users: string[]): Promise<void> {
  for (const user of users) {
    const request = { user_id: user, post_id: post, intent_time: now() };
    const { outcome, like_count } = await call<LikeResponse>(client, "Like", request);
    console.log(`${user} likes: ${outcome}, ${like_count.count} likes`);
  }
}

async function page(client: grpc.Client, post: string): Promise<void> {
  let token = "";
  do {
    const request = { post_id: post, page_size: 2, page_token: token };
    const answer = await call<ListLikersResponse>(client, "ListLikers", request);
    console.log(`page: ${answer.likes.map((liker) => liker.user_id).join(", ")} of ${answer.total.count}`);
    token = answer.next_page_token;
  } while (token);
}

/** Sees the count of before, takes a like back, and ends when that is seen as well. */
async function watch(client: grpc.Client, post: string, user: string): Promise<void> {
  const options = { deadline: Date.now() + TIMEOUT_MS };
  const stream: grpc.ClientReadableStream<WatchLikeCountsResponse> = (client as any).WatchLikeCounts(
    { post_ids: [post] },
    options,
  );
  let last: bigint | undefined; // the version that the unlike has made
  try {
    for await (const { like_counts } of stream) {
      for (const { count, version } of like_counts as LikeCount[]) {
        console.log(`watched: ${count} likes`);
        if (last === undefined) {
          const request = { user_id: user, post_id: post, intent_time: now() };
          const { outcome, like_count } = await call<LikeResponse>(client, "Unlike", request);
          console.log(`${user} unlikes: ${outcome}`);
          last = BigInt(like_count.version);
        } else if (BigInt(version) >= last) {
          return;
        }
      }
    }
    throw new Error("the stream has ended before the change was seen");
  } finally {
    stream.cancel();
  }
}

const [address] = process.argv.slice(2);
if (address === undefined) {
  console.error("usage: npm start -- ADDRESS");
  process.exit(2);
}
const client = connect(address);
const post = `post-${randomUUID()}`;
try {
  await like(client, post, ["mia", "noah", "olga", "pia", "quinn"]);
  await page(client, post);
  await watch(client, post, "quinn");
} catch (error) {
  console.error(String(error));
  process.exitCode = 1;
} finally {
  client.close();
}
