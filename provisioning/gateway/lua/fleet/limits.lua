-- How many requests each instance gets: exact across workers, and across nginx's reloads.
--
-- The state is one piece of memory that the master maps before it forks, under one mutex: a choice
-- looks at thousands of rows, which is microseconds here and milliseconds in a shared dictionary.
-- The mutex is robust: when a worker dies holding it, the next one repairs the state.
local ffi = require "ffi"
local C = ffi.C

local MAX_ROWS, MAX_WORKERS, N_CURSORS, N_SLOTS = 262144, 256, 4096, 4096
local LAYOUT = "region-2" -- another layout of the struct gets another name

local declarations = ([[
typedef struct {
  char mutex[128];
  double last_pause;
  int32_t pids[WORKERS];
  int32_t cursors[CURSORS];
  double waiting_since[WORKERS][SLOTS];
  double free_at[ROWS];
  double next_at[ROWS];
  double paused_until[ROWS];
  double interval[ROWS];
  double tolerance[ROWS];
  int32_t concurrency[ROWS];
  int32_t in_flight[ROWS];
  uint8_t held[WORKERS][ROWS];
} fleet_limits;
typedef struct { long s; long ns; } fleet_time;
void *mmap(void *, size_t, int, int, int, long);
int pthread_mutexattr_init(void *);
int pthread_mutexattr_setpshared(void *, int);
int pthread_mutexattr_setrobust(void *, int);
int pthread_mutex_init(void *, const void *);
int pthread_mutex_lock(void *);
int pthread_mutex_unlock(void *);
int pthread_mutex_consistent(void *);
int clock_gettime(int, fleet_time *);
int kill(int, int);
]]):gsub("ROWS", MAX_ROWS):gsub("WORKERS", MAX_WORKERS):gsub("CURSORS", N_CURSORS)
  :gsub("SLOTS", N_SLOTS)
ffi.cdef(declarations)

local EOWNERDEAD, CLOCK_MONOTONIC = 130, 1
local NEVER = math.huge
local READ_WRITE, SHARED_ANONYMOUS_NORESERVE = 3, 0x4021

local _M = { MAX_ROWS = MAX_ROWS, N_CURSORS = N_CURSORS, N_SLOTS = N_SLOTS }

local region, mutex, me
local time = ffi.new("fleet_time")

-- Not ngx.now(), which is as old as the worker's turn; and never set back.
local function now()
  C.clock_gettime(CLOCK_MONOTONIC, time)
  return tonumber(time.s) + tonumber(time.ns) * 1e-9
end
_M.now = now

local function init_mutex()
  local attributes = ffi.new("char[128]")
  C.pthread_mutexattr_init(attributes)
  C.pthread_mutexattr_setpshared(attributes, 1)
  C.pthread_mutexattr_setrobust(attributes, 1)
  assert(C.pthread_mutex_init(region.mutex, attributes) == 0, "cannot make a mutex")
end

-- In the master: maps the memory, or finds that of before the reload.
function _M.open()
  local slots = ngx.shared.fleet_slots
  local address = slots:get(LAYOUT)
  if address then
    region = ffi.cast("fleet_limits *", ffi.cast("uintptr_t", address))
  else
    local size = ffi.sizeof("fleet_limits")
    local mapped = C.mmap(nil, size, READ_WRITE, SHARED_ANONYMOUS_NORESERVE, -1, 0)
    address = tonumber(ffi.cast("uintptr_t", mapped))
    assert(ffi.cast("intptr_t", mapped) ~= -1, "cannot map the memory of the limits")
    region = ffi.cast("fleet_limits *", mapped)
    init_mutex()
    slots:set(LAYOUT, address)
  end
  mutex = region.mutex
end

local function update(row)
  if region.in_flight[row] >= region.concurrency[row] then
    region.free_at[row] = NEVER
  else
    local at = region.next_at[row] - region.tolerance[row]
    local paused_until = region.paused_until[row]
    region.free_at[row] = paused_until > at and paused_until or at
  end
end

local function drop_worker(worker)
  local held = region.held[worker]
  for row = 0, MAX_ROWS - 1 do
    if held[row] > 0 then
      region.in_flight[row] = region.in_flight[row] - held[row]
      held[row] = 0
      update(row)
    end
  end
  region.pids[worker] = 0
end

-- After a worker died within the lock: what each worker holds is right but for the dead one's.
local function repair()
  for row = 0, MAX_ROWS - 1 do
    region.in_flight[row] = 0
  end
  for worker = 0, MAX_WORKERS - 1 do
    if region.pids[worker] ~= 0 then
      local held = region.held[worker]
      for row = 0, MAX_ROWS - 1 do
        region.in_flight[row] = region.in_flight[row] + held[row]
      end
    end
  end
  for row = 0, MAX_ROWS - 1 do
    update(row)
  end
end

local function lock()
  if C.pthread_mutex_lock(mutex) == EOWNERDEAD then
    repair()
    C.pthread_mutex_consistent(mutex)
  end
end

local function unlock()
  C.pthread_mutex_unlock(mutex)
end

local function is_dead(worker)
  local pid = region.pids[worker]
  return pid ~= 0 and C.kill(pid, 0) ~= 0
end

-- Frees what killed workers held; their connections ended with them, so servers stopped too.
function _M.drop_dead()
  for worker = 0, MAX_WORKERS - 1 do
    if is_dead(worker) then
      lock()
      if is_dead(worker) then -- no other worker was faster
        drop_worker(worker)
      end
      unlock()
    end
  end
end

-- In a new worker: takes a place among the workers.
function _M.join()
  _M.drop_dead()
  lock()
  for worker = 0, MAX_WORKERS - 1 do
    if region.pids[worker] == 0 then
      region.pids[worker] = ngx.worker.pid()
      me = worker
      ffi.fill(region.waiting_since[me], ffi.sizeof("double") * N_SLOTS)
      break
    end
  end
  unlock()
  return me ~= nil
end

-- What an engine's limit means for a row. It may be another one after a reload.
function _M.set(row, limit)
  lock()
  region.interval[row] = 1 / limit.rate
  region.tolerance[row] = (limit.burst - 1) / limit.rate
  region.concurrency[row] = limit.concurrency
  update(row)
  unlock()
end

-- Whether a row is as if it had never been used, so another instance may have it.
function _M.is_idle(row)
  return region.in_flight[row] == 0 and region.next_at[row] <= now()
    and region.paused_until[row] <= now()
end

local function take_row(row, at)
  local held = region.held[me]
  held[row] = held[row] + 1
  region.in_flight[row] = region.in_flight[row] + 1
  local next_at = region.next_at[row]
  region.next_at[row] = (next_at > at and next_at or at) + region.interval[row]
  update(row)
end

-- Returns the index of the next row with room, or nil and when the first one has room again.
local function scan(pool, from, to, at)
  local free_at, rows, soonest = region.free_at, pool.rows, NEVER
  for i = from, to - 1 do
    local row_free_at = free_at[rows[i]]
    if row_free_at <= at then
      return i
    elseif row_free_at < soonest then
      soonest = row_free_at
    end
  end
  return nil, soonest
end

-- The same where a pause counts for nothing.
local function scan_paused(pool, at)
  for i = 0, pool.n - 1 do
    local row = pool.rows[i]
    if region.in_flight[row] < region.concurrency[row]
      and region.next_at[row] - region.tolerance[row] <= at then
      return i
    end
  end
end

local function next_index(pool, at)
  local from = region.cursors[pool.cursor]
  if from >= pool.n then
    from = 0
  end
  local index, soonest = scan(pool, from, pool.n, at)
  if index then
    return index
  end
  local wrapped, sooner = scan(pool, 0, from, at)
  return wrapped, sooner and math.min(soonest, sooner)
end

local function take_locked(pools, at)
  local soonest = NEVER
  for _, pool in ipairs(pools) do
    local index, free_at = next_index(pool, at)
    if index then
      region.cursors[pool.cursor] = index + 1
      take_row(pool.rows[index], at)
      return pool.instances[index]
    end
    soonest = math.min(soonest, free_at)
  end
  -- Rather a paused instance than none: it may be well again, or all of them seem ill.
  if region.last_pause > at then
    for _, pool in ipairs(pools) do
      local index = scan_paused(pool, at)
      if index then
        take_row(pool.rows[index], at)
        return pool.instances[index]
      end
    end
  end
  return nil, soonest
end

-- Takes a place at an instance of the first pool that has room.
-- Returns the instance, or nil and the seconds until the first one has room (huge: unknown).
function _M.take(pools)
  local at = now()
  lock()
  local instance, soonest = take_locked(pools, at)
  unlock()
  return instance, soonest and soonest - at
end

-- Gives the place back; the instance is left out for `pause_s` seconds.
function _M.release(row, pause_s)
  lock()
  local held = region.held[me]
  held[row] = held[row] - 1
  region.in_flight[row] = region.in_flight[row] - 1
  if pause_s then
    region.paused_until[row] = math.max(region.paused_until[row], now() + pause_s)
    region.last_pause = math.max(region.last_pause, region.paused_until[row])
  end
  update(row)
  unlock()
end

-- Says since when this worker's first request waits for a model; 0: there is none. Models may share
-- a slot, and a killed worker leaves its slots for half a second: both cost others a pause only.
function _M.set_waiting(slot, since)
  region.waiting_since[me][slot] = since
end

-- Whether a request that came before waits at another worker, and found no room.
function _M.is_awaited(slot, before)
  for worker = 0, MAX_WORKERS - 1 do
    if region.pids[worker] ~= 0 and worker ~= me then
      local since = region.waiting_since[worker][slot]
      if since > 0 and since < before then
        return true
      end
    end
  end
  return false
end

-- Returns how many of these rows are paused, and how many requests are in flight at them.
function _M.counts(pool)
  local n_paused, n_in_flight, at = 0, 0, now()
  for i = 0, pool.n - 1 do
    local row = pool.rows[i]
    n_in_flight = n_in_flight + region.in_flight[row]
    n_paused = n_paused + (region.paused_until[row] > at and 1 or 0)
  end
  return n_paused, n_in_flight
end

return _M
