-- The limits of a call, counted for all gateways: the twin of windows.py and shelf.py, atomic because it is a script.
--
-- One hash is one identity of one scope (a key, a model, an address ...). Its field "w" names the windows that are
-- counted, such as "r60 t60": requests and tokens of a minute. Under a window's name stands its state, packed:
--   total, head, tail, open_until, last, count, head_last
-- The entries head .. tail-1 are fields "r60:17" with (last, count); the entry tail is in the state itself. A window
-- without entries has tail = head - 1. Times are whole microseconds of this server's clock.
-- Running calls are members of a sorted set, by when their lease ends.
--
-- ARGV[1] says what to do, ARGV[2] what time it is (0: this server's clock).

local GRAIN = 100
local ROOM_US = 1000000

local now = tonumber(ARGV[2])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local function load_window(key, name, packed)
  local size = tonumber(string.sub(name, 2)) * 1000000
  local w = {key = key, name = name, size = size, total = 0, head = 1, tail = 0, open_until = 0, last = 0, count = 0,
    head_last = 0, now = now}
  if packed then
    w.total, w.head, w.tail, w.open_until, w.last, w.count, w.head_last = cmsgpack.unpack(packed)
    w.now = math.max(now, w.last) -- a clock that was set back does not undo what was counted
  end
  return w
end

local function save(w, changes)
  changes[#changes + 1] = w.name
  changes[#changes + 1] = cmsgpack.pack(w.total, w.head, w.tail, w.open_until, w.last, w.count, w.head_last)
end

local function read_entry(w, index)
  if index == w.tail then return w.last, w.count end
  local packed = redis.call('HGET', w.key, w.name .. ':' .. index)
  if not packed then return 0, 0 end
  return cmsgpack.unpack(packed)
end

local function drop_entries(w, first, last)
  for from = first, last, 500 do
    local names = {}
    for index = from, math.min(last, from + 499) do names[#names + 1] = w.name .. ':' .. index end
    redis.call('HDEL', w.key, unpack(names))
  end
end

local function first_last(w)
  return w.head == w.tail and w.last or w.head_last
end

local function expire(w)
  if w.head > w.tail then return end
  if w.last + w.size <= w.now then
    drop_entries(w, w.head, w.tail - 1)
    w.total, w.head = 0, w.tail + 1
    return
  end
  local from = w.head
  while first_last(w) + w.size <= w.now do -- ends before tail, which has not expired
    local _, count = read_entry(w, w.head)
    w.total, w.head = w.total - count, w.head + 1
    w.head_last = read_entry(w, w.head)
  end
  if w.head > from then drop_entries(w, from, w.head - 1) end
end

-- Counts `amount`; true when that made a new entry.
local function add(w, amount, changes)
  w.total = w.total + amount
  if w.head <= w.tail and w.now < w.open_until then
    w.last, w.count = w.now, w.count + amount
    return false
  end
  if w.head <= w.tail then
    changes[#changes + 1] = w.name .. ':' .. w.tail
    changes[#changes + 1] = cmsgpack.pack(w.last, w.count)
    if w.head == w.tail then w.head_last = w.last end
  end
  w.tail = w.tail + 1
  w.last, w.count, w.open_until = w.now, amount, w.now + w.size / GRAIN
  return true
end

local function give_back(w, index, amount, changes)
  if index < w.head or index > w.tail then return end
  local last, count = read_entry(w, index)
  amount = math.min(amount, count)
  w.total = w.total - amount
  if index == w.tail then
    w.count = count - amount
  else
    changes[#changes + 1] = w.name .. ':' .. index
    changes[#changes + 1] = cmsgpack.pack(last, count - amount)
  end
end

-- Microseconds until `amount` more fit under `number`; -1 when they never will.
local function find_wait(w, amount, number)
  local excess = w.total + amount - number
  if amount > number then return -1 end
  for index = w.head, w.tail do
    if excess <= 0 then break end
    local last, count = read_entry(w, index)
    excess = excess - count
    if excess <= 0 then return math.max(0, last + w.size - w.now) end
  end
  return 0
end

local function find_reset_s(w)
  if w.head > w.tail then return 0 end
  return math.max(0, math.ceil((first_last(w) + w.size - w.now) / 1000000))
end

local function keep_for(key, windows)
  local longest = 0
  for _, w in ipairs(windows) do longest = math.max(longest, w.size + w.size / GRAIN) end
  redis.call('PEXPIRE', key, math.ceil((longest + ROOM_US) / 1000))
end

local function split(names)
  local list = {}
  for name in string.gmatch(names, '%S+') do list[#list + 1] = name end
  return list
end

local function join_names(known, more)
  local has = {}
  for _, name in ipairs(split(known)) do has[name] = true end
  for _, name in ipairs(split(more)) do
    if not has[name] then known = known .. ' ' .. name end
  end
  return known
end

-- All windows of an identity, also those that this call's limit does not name: they count it all the same.
local function load(key, wanted)
  local known = redis.call('HGET', key, 'w') or ''
  local names = known == wanted and known or join_names(known, wanted)
  local list, by_name = {}, {}
  local order = split(names)
  if #order == 0 then return list, by_name, names ~= known and names end
  local packed = redis.call('HMGET', key, unpack(order))
  for i, name in ipairs(order) do
    list[i] = load_window(key, name, packed[i])
    by_name[name] = list[i]
  end
  return list, by_name, names ~= known and names
end

-- The tightest window of a kind over all scopes; a burst with room says nothing about the minutes to come.
local function find_tightest(scopes, kind)
  local number, least, reset = -1, math.huge, 0
  for _, scope in ipairs(scopes) do
    for _, check in ipairs(scope.checks) do
      local w = scope.by_name[check[1]]
      if string.sub(check[1], 1, 1) == kind then
        local remaining = check[2] - w.total
        if not (remaining > least or (remaining > 0 and check[3])) then
          remaining = math.max(0, remaining)
          local seconds = find_reset_s(w)
          if number < 0 or remaining < least or seconds > reset then
            number, least, reset = check[2], remaining, seconds
          end
        end
      end
    end
  end
  return number, number < 0 and -1 or least, reset
end

local function count_leases(key)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  return redis.call('ZCARD', key)
end

local function hold_lease(key, id, lease_us)
  redis.call('ZADD', key, string.format('%.0f', now + lease_us), id)
  redis.call('PEXPIRE', key, math.ceil((lease_us + ROOM_US) / 1000))
end

-- take: ARGV[3] tokens, [4] lease id, [5] lease in us, then per scope: windows, checks as JSON [[window, number, is
-- burst] ...], concurrency or "". KEYS: the scopes' hashes, then the sets of those with a concurrency.
-- {1, handle, tightest ...} or {0, scope, kind, seconds, number, total, wait, tightest ...}, and behind that for each set
-- of which more than half is taken: which one, and how many are in it.
local function take()
  local tokens, id, lease_us = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
  local scopes, refusal, longest, leases = {}, nil, -1, (#ARGV - 5) / 3

  local function refuse(scope, kind, name, number, total, wait)
    local order = wait < 0 and math.huge or wait
    if order > longest then
      longest = order
      refusal = {0, scope, kind, name == '' and 0 or tonumber(string.sub(name, 2)), number, total, wait}
    end
  end

  for i = 1, (#ARGV - 5) / 3 do
    local at = 3 + i * 3
    local scope = {key = KEYS[i], checks = cjson.decode(ARGV[at + 1]), concurrency = tonumber(ARGV[at + 2])}
    scope.list, scope.by_name, scope.names = load(KEYS[i], ARGV[at])
    scopes[i] = scope
    if scope.concurrency then
      leases = leases + 1
      scope.leases = KEYS[leases]
      local running = count_leases(scope.leases)
      scope.running = running
      if running >= scope.concurrency then refuse(i, 'c', '', scope.concurrency, running, ROOM_US) end
    end
    for _, w in ipairs(scope.list) do expire(w) end
    for _, check in ipairs(scope.checks) do
      local name, number = check[1], check[2]
      local kind, w = string.sub(name, 1, 1), scope.by_name[name]
      local amount = kind == 'r' and 1 or tokens
      if w.total + amount > number then refuse(i, kind, name, number, w.total, find_wait(w, amount, number)) end
    end
  end

  local handle = {}
  for i, scope in ipairs(scopes) do
    local changes, fresh = {}, scope.names and true or false
    if not refusal then
      if scope.names then changes = {'w', scope.names} end
      if scope.leases then hold_lease(scope.leases, id, lease_us) end
    end
    for _, w in ipairs(scope.list) do
      if not refusal then
        local is_token = string.sub(w.name, 1, 1) == 't'
        fresh = add(w, is_token and tokens or 1, changes) or fresh
        if is_token then
          handle[#handle + 1] = i
          handle[#handle + 1] = w.name
          handle[#handle + 1] = w.tail
        end
      end
      if not (refusal and w.tail == 0) then save(w, changes) end -- what has expired is gone from the hash already
    end
    if #changes > 0 then redis.call('HSET', scope.key, unpack(changes)) end
    if fresh and not refusal then keep_for(scope.key, scope.list) end
  end

  local reply = refusal or {1, #handle > 0 and cmsgpack.pack(handle) or ''}
  for _, kind in ipairs({'r', 't'}) do
    local number, remaining, reset = find_tightest(scopes, kind)
    for _, fact in ipairs({number, remaining, reset}) do reply[#reply + 1] = fact end
  end
  local set = 0
  for _, scope in ipairs(scopes) do
    if scope.leases then
      local held = scope.running + (refusal and 0 or 1)
      set = set + 1
      if held * 2 > scope.concurrency then
        reply[#reply + 1] = set
        reply[#reply + 1] = held
      end
    end
  end
  return reply
end

-- `more` tokens at the windows of a take's handle; its hashes are the KEYS behind `before`.
local function correct(before, more, packed_handle)
  local handle = cmsgpack.unpack(packed_handle)
  for at = 1, #handle, 3 do
    local key, name = KEYS[before + handle[at]], handle[at + 1]
    local packed = redis.call('HGET', key, name)
    if packed then
      local w, changes = load_window(key, name, packed), {}
      expire(w)
      if more < 0 then
        give_back(w, handle[at + 2], -more, changes)
      else
        add(w, more, changes)
      end
      save(w, changes)
      redis.call('HSET', key, unpack(changes))
    end
  end
end

-- settle: for each call that has ended five of ARGV: lease id, tokens beyond the reservation (negative: unused), handle
-- of the take, and how many of KEYS are its: hashes, then sets.
local function settle()
  local before = 0
  for at = 3, #ARGV, 5 do
    local id, more, hashes, leases = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
    if hashes > 0 then correct(before, more, ARGV[at + 2]) end
    for i = before + hashes + 1, before + hashes + leases do redis.call('ZREM', KEYS[i], id) end
    before = before + hashes + leases
  end
  return before
end

-- renew: ARGV[3] lease in us, then the id for each of KEYS.
local function renew()
  for i, key in ipairs(KEYS) do hold_lease(key, ARGV[3 + i], tonumber(ARGV[3])) end
  return #KEYS
end

-- beat: KEYS members, state; ARGV[3] member, [4] how long it counts in us, [5] generation and [6] beat that it saw last.
-- The beat only grows. One that is smaller than what somebody has seen comes from older data: those are left behind,
-- under the old generation.
local function beat()
  local member, seen = ARGV[3], tonumber(ARGV[6])
  local generation, number = unpack(redis.call('HMGET', KEYS[2], 'generation', 'beat'))
  number = tonumber(number or 0)
  local known = tonumber(ARGV[5])
  if not generation or tonumber(generation) < known or (tonumber(generation) == known and number < seen) then
    generation = string.format('%.0f', now)
  end
  number = math.max(number, seen) + 1
  redis.call('HSET', KEYS[2], 'generation', generation, 'beat', string.format('%.0f', number))
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[4])), member)
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
  local all = redis.call('ZRANGE', KEYS[1], 0, -1)
  table.sort(all)
  local rank = 0
  for i, name in ipairs(all) do if name == member then rank = i - 1 end end
  return {generation, number, #all, rank}
end

-- restore: for each of KEYS the JSON [[window, [[age in us, count] ...]] ...], oldest first: what a gateway counted
-- by itself. Entries of both sides are joined; calls that are running can no longer give back to theirs.
local function restore()
  for i, key in ipairs(KEYS) do
    local given, names = cjson.decode(ARGV[2 + i]), ''
    for _, pair in ipairs(given) do names = names .. ' ' .. pair[1] end
    local list, by_name, joined = load(key, names)
    local changes = joined and {'w', joined} or {}
    for _, pair in ipairs(given) do
      local w, entries = by_name[pair[1]], {}
      expire(w)
      for index = w.head, w.tail do
        local last, count = read_entry(w, index)
        entries[#entries + 1] = {last, count}
      end
      for _, entry in ipairs(pair[2]) do
        if entry[1] < w.size then entries[#entries + 1] = {now - entry[1], entry[2]} end
      end
      table.sort(entries, function(a, b) return a[1] < b[1] end)
      drop_entries(w, w.head, w.tail - 1)
      w.head, w.total = w.tail + 1, 0
      for _, entry in ipairs(entries) do
        w.now = entry[1]
        add(w, entry[2], changes)
      end
      save(w, changes)
    end
    if #changes > 0 then
      for from = 1, #changes, 1000 do
        redis.call('HSET', key, unpack(changes, from, math.min(from + 999, #changes)))
      end
      keep_for(key, list)
    end
  end
  return #KEYS
end

local does = {take = take, settle = settle, renew = renew, beat = beat, restore = restore}
return does[ARGV[1]]()
