-- Chooses the instance of each request, and the next one when it fails.
local balancer = require "ngx.balancer"
local semaphore = require "ngx.semaphore"
local limits = require "fleet.limits"
local metrics = require "fleet.metrics"
local settings = require "fleet.settings"
local upstreams = require "fleet.upstreams"

local _M = {}

local DROP_PERIOD_S = 0.5
-- Servers notice a moment later that a client has left.
local ABORT_PAUSE_S = 0.1

-- Requests that wait at this worker, by model, in the order of their arrival. The first one of a
-- queue looks for room, the others wait behind it.
local queues, n_queues, n_waiting = {}, 0, 0

function _M.start()
  if not limits.join() then
    ngx.log(ngx.ERR, "too many workers: old ones still finish their answers")
  end
  ngx.timer.every(DROP_PERIOD_S, limits.drop_dead)
  upstreams.start()
  metrics.start()
  require("fleet.keys").start()
  require("fleet.usage").start()
end

-- Returns the model's name in the list, which has no `:latest`, or nil where no instance has it.
function _M.canonical(model)
  local pools = upstreams.current().pools
  local name = pools[model] and model or model:gsub(":latest$", "")
  return pools[name] and name
end

local function own_pool(ctx)
  return settings.sticky and ctx.developer
    and upstreams.current().by_developer[ctx.developer .. "\n" .. ctx.model]
end

-- The pools to choose from, in order; `model` is nil where any instance will do.
local function pools_for(ctx)
  local current = upstreams.current()
  local pools = ctx.any and current.all or current.pools[ctx.model]
  local own = own_pool(ctx)
  return own and { own, pools[1], pools[2] } or pools
end

local function take(ctx, pools)
  if not pools then
    return nil, math.huge
  end
  local instance, wait_s = limits.take(pools)
  if instance then
    ctx.instance, ctx.holds, ctx.started = instance, true, ngx.now()
  end
  return instance, wait_s
end

local function give_back(ctx, pause_s)
  if ctx.holds then
    ctx.holds = false
    limits.release(ctx.instance.row, pause_s)
  end
end

local function slot_of(key)
  return ngx.crc32_short(key) % limits.N_SLOTS
end

local function enter_queue(ctx, key)
  local queue = queues[key]
  if not queue then
    queue, n_queues = { key = key, slot = slot_of(key), wait_s = 1 }, n_queues + 1
    queues[key] = queue
  end
  local last = queue.last
  local waiter = { queue = queue, since = limits.now(), ahead = last, turn = last and semaphore.new() }
  if last then
    last.behind = waiter
  end
  queue.last, ctx.waiter, n_waiting = waiter, waiter, n_waiting + 1
  return waiter
end

local function leave_queue(ctx)
  local waiter = ctx.waiter
  local queue, ahead, behind = waiter.queue, waiter.ahead, waiter.behind
  ctx.waiter, n_waiting = nil, n_waiting - 1
  if ahead then
    ahead.behind = behind
  else
    limits.set_waiting(queue.slot, 0)
  end
  if behind then
    behind.ahead = ahead
  else
    queue.last = ahead
  end
  if behind and not ahead then
    behind.turn:post() -- it is the first one now
  elseif not queue.last then
    queues[queue.key], n_queues = nil, n_queues - 1
  end
end

-- Where many models have no room, each is looked at less often, so that looking costs little; and
-- where another worker's request has waited longer, so that it mostly looks first.
local function pause(waiter, deadline)
  local queue = waiter.queue
  local pause_s = math.max(0.005, math.min(queue.wait_s, 0.01 + n_queues * 0.0005))
  local n_pauses = limits.is_awaited(queue.slot, waiter.since) and 2 or 1
  ngx.sleep(math.max(0.001, math.min(n_pauses * pause_s, deadline - limits.now())))
end

local function look_until(ctx, waiter, deadline)
  while true do
    local instance, wait_s = take(ctx, pools_for(ctx))
    if instance or limits.now() >= deadline then
      return instance, wait_s
    end
    waiter.queue.wait_s = wait_s
    limits.set_waiting(waiter.queue.slot, waiter.since)
    pause(waiter, deadline)
  end
end

local function wait(ctx, key, is_late)
  local waiter = enter_queue(ctx, key)
  local deadline = waiter.since + settings.requests.wait
  if waiter.ahead then
    waiter.turn:wait(settings.requests.wait) -- then it looks once, whoever is ahead
  elseif is_late then
    pause(waiter, deadline)
  end
  local instance, wait_s = look_until(ctx, waiter, deadline)
  leave_queue(ctx)
  return instance, wait_s
end

-- Takes a place for the request, or returns nil and the seconds until there may be one. Where others
-- wait, it goes behind them; but a developer's own instance is theirs first.
function _M.admit(ctx)
  local key, requests = ctx.any and "" or ctx.model, settings.requests
  local queue = queues[key]
  local may_wait = requests.wait > 0 and n_waiting < requests.max_waiting
  local is_late = queue or may_wait and limits.is_awaited(slot_of(key), math.huge)
  local instance, wait_s
  if is_late then
    local own = own_pool(ctx)
    instance, wait_s = take(ctx, own and { own }), queue and queue.wait_s
  else
    instance, wait_s = take(ctx, pools_for(ctx))
  end
  if may_wait and not instance then
    return wait(ctx, key, is_late)
  end
  return instance, wait_s
end

function _M.retry_after(wait_s)
  return wait_s < 3600 and math.max(1, math.ceil(wait_s)) or 1
end

-- Says why the last instance failed, and for how long it is left out; no pause: never try again.
local function last_failure()
  local _, status = balancer.get_last_failure()
  local connect_time = ngx.var.upstream_connect_time or "-"
  local is_connected = connect_time:find("%d[%s:]*$")
  if status == 503 then
    return "busy", settings.ejection.busy
  elseif not is_connected then
    return status == 504 and "connect_timeout" or "refused", settings.ejection.refused
  elseif status == 504 then
    return "answer_timeout"
  end
  return "broken", settings.ejection.busy
end

local function fail(ctx, status, wait_s)
  ctx.failure = { status = status, retry_after = wait_s and _M.retry_after(wait_s) }
  ngx.exit(ngx.ERROR)
end

local function choose_again(ctx)
  local reason, pause_s = last_failure()
  give_back(ctx, pause_s)
  if not pause_s then
    return fail(ctx, 504)
  end
  metrics.retry(reason)
  local instance, wait_s = take(ctx, pools_for(ctx))
  if not instance then
    metrics.reject("fleet_full")
    return fail(ctx, 429, wait_s)
  end
  return instance
end

-- nginx calls it for each try.
function _M.balance()
  local ctx = ngx.ctx
  local instance = ctx.instance
  if ctx.tries > 0 then
    instance = choose_again(ctx)
    if not instance then
      return
    end
  end
  ctx.tries = ctx.tries + 1
  if ctx.tries < settings.requests.tries then
    balancer.set_more_tries(1)
  end
  local ok, err = balancer.set_current_peer(instance.address, instance.port, instance.address)
  if not ok then
    ngx.log(ngx.ERR, "instance not used instance=", instance.id, " error=", err)
    return ngx.exit(ngx.ERROR)
  end
  balancer.enable_keepalive(settings.nginx.idle_timeout, 1000000)
end

_M.balance = require("fleet.faults").logged(_M.balance)

-- At a request's end, also where its client left while it waited.
function _M.finish(ctx)
  if ctx.waiter then
    leave_queue(ctx)
    ctx.started = ngx.now() -- the series of queue times has its wait too
  end
  if ctx.holds then
    give_back(ctx, ngx.status == 499 and ABORT_PAUSE_S or nil)
  end
end

function _M.status()
  local status, current = upstreams.status(), upstreams.current()
  if current.all then
    status.n_ejected, status.n_in_flight = limits.counts(current.all[1])
  end
  return status
end

function _M.healthz()
  local n = upstreams.current().n
  ngx.status = n > 0 and 200 or 503
  ngx.say('{"instances":', n, '}')
end

return _M
