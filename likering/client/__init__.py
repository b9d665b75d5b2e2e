"""The Python clients of likering: LikeTracker for synchronous code, AsyncLikes for asyncio."""
