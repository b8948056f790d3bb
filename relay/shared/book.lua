-- relay/shared/book.py inside Redis. A batch is answered atomically, by Redis's own clock.
--
-- gateway:processes      every process, by the time (ms) at which it counts as dead
-- gateway:held:<id>      what a process holds: count by place; expires with the process, and is never empty before
-- gateway:rate:<client>  the time (ms) at which the client's bucket will be full again (GCRA: one number is a bucket)
--
-- KEYS[1] is only the prefix; the batch decides which other keys are used. So this can't run on Redis Cluster.

local prefix, me, lease = KEYS[1], ARGV[1], tonumber(ARGV[2])
local interval, burst, asks = tonumber(ARGV[3]), tonumber(ARGV[4]), cjson.decode(ARGV[5])
local processes, mine = prefix .. ':processes', prefix .. ':held:' .. me
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local ROUNDING = 0.01 -- ms

local function take(client)
  local key = prefix .. ':rate:' .. client
  local full = math.max(now, tonumber(redis.call('GET', key)) or 0) + interval
  local wait = full - now - burst * interval
  if wait > ROUNDING then
    return wait / 1000
  end
  redis.call('SET', key, string.format('%.17g', full), 'PX', math.ceil(full - now) + 1)
  return 0
end

local function hold(place, count, limit)
  if limit > 0 then
    local all = count
    for _, process in ipairs(redis.call('ZRANGE', processes, 0, -1)) do
      if process ~= me then
        all = all + (tonumber(redis.call('HGET', prefix .. ':held:' .. process, place)) or 0)
      end
    end
    if all > limit then
      return 1
    end
  end
  if count > 0 then
    redis.call('HSET', mine, place, count)
  else
    redis.call('HDEL', mine, place)
  end
  return 0
end

local function clear()
  redis.call('DEL', mine)
  redis.call('HSET', mine, '', 1)
  redis.call('ZREMRANGEBYSCORE', processes, '-inf', now)
  return 0
end

if not (asks[1] and asks[1][1] == 'clear') and redis.call('EXISTS', mine) == 0 then
  return redis.error_reply('FORGOTTEN it has lost its data, or this process slept for too long')
end
local answers = {}
for number, ask in ipairs(asks) do
  if ask[1] == 'take' then
    answers[number] = tostring(take(ask[2]))
  elseif ask[1] == 'hold' then
    answers[number] = tostring(hold(ask[2], ask[3], ask[4]))
  else
    answers[number] = tostring(clear())
  end
end
redis.call('ZADD', processes, now + lease, me)
redis.call('PEXPIRE', mine, lease)
redis.call('PEXPIRE', processes, lease)
return answers
