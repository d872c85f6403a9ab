-- Chooses the instance of each request, and the next one when it fails.
local balancer = require "ngx.balancer"
local limits = require "fleet.limits"
local metrics = require "fleet.metrics"
local settings = require "fleet.settings"
local upstreams = require "fleet.upstreams"

local _M = {}

local DROP_PERIOD_S = 0.5
-- Servers notice a moment later that a client has left.
local ABORT_PAUSE_S = 0.1

local n_waiting = 0

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

-- The pools to choose from, in order; `model` is nil where any instance will do.
local function pools_for(ctx)
  local current = upstreams.current()
  local pools = ctx.any and current.all or current.pools[ctx.model]
  local own = settings.sticky and ctx.developer
    and current.by_developer[ctx.developer .. "\n" .. ctx.model]
  return own and { own, pools[1], pools[2] } or pools
end

local function take(ctx)
  local pools = pools_for(ctx)
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

-- Waits a while for room. Many that wait look less often, so that looking costs little.
local function wait(ctx, wait_s)
  local deadline = limits.now() + settings.requests.wait
  local instance
  n_waiting = n_waiting + 1
  repeat
    local left = deadline - limits.now()
    local pause_s = math.max(0.005, math.min(wait_s, 0.01 + n_waiting * 0.0005))
    ngx.sleep(math.min(pause_s, math.max(left, 0.001)))
    instance, wait_s = take(ctx)
  until instance or limits.now() >= deadline
  n_waiting = n_waiting - 1
  return instance, wait_s
end

-- Takes a place for the request, or returns nil and the seconds until there may be one.
function _M.admit(ctx)
  local instance, wait_s = take(ctx)
  if not instance and settings.requests.wait > 0 and n_waiting < settings.requests.max_waiting then
    instance, wait_s = wait(ctx, wait_s)
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
  local instance, wait_s = take(ctx)
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

-- At a request's end.
function _M.finish(ctx)
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
