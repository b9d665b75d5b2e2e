-- Sets each key unless it holds a version at least as new. KEYS: the posts' keys. ARGV: the time to live in seconds,
-- whether to make keys that are not there ("1") or to leave them ("0"), then per key "version count".
local make = ARGV[2] == '1'
for first = 1, #KEYS, 1000 do -- unpack takes only so many at a time
    local last = math.min(first + 999, #KEYS)
    local held = redis.call('MGET', unpack(KEYS, first, last))
    for i = first, last do
        local old, new = held[i - first + 1], ARGV[i + 2]
        local wanted = make
        if old then
            wanted = tonumber(string.match(old, '^%d+') or -1) < tonumber(string.match(new, '^%d+'))
        end
        if wanted then
            redis.call('SET', KEYS[i], new, 'EX', ARGV[1])
        end
    end
end
