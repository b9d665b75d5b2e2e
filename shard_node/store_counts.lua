-- Sets each key unless it holds a version at least as new. KEYS: the posts' keys. ARGV: the time to live in seconds,
-- then per key "version count".
for i, key in ipairs(KEYS) do
    local value = ARGV[i + 1]
    local held = redis.call('GET', key)
    if not held or tonumber(string.match(held, '^%d+') or -1) < tonumber(string.match(value, '^%d+')) then
        redis.call('SET', key, value, 'EX', ARGV[1])
    end
end
