-- The gateway's series.
local _M = {}

function _M.start() end

function _M.reject(reason) end

function _M.retry(reason) end

function _M.finish() end

function _M.serve()
  ngx.header["Content-Type"] = "text/plain; version=0.0.4"
  ngx.print("")
end

return _M
