-- Files, read within bounds, and written whole or not at all.

local _M = {}

-- What a file holds, or nil and why not.
function _M.read(path, max_bytes)
  local file, fault = io.open(path, "rb")
  if not file then
    return nil, fault
  end
  local body = file:read(max_bytes + 1)
  file:close()
  if not body then
    return nil, path .. ": is empty"
  end
  if #body > max_bytes then
    return nil, path .. ": is larger than " .. max_bytes .. " bytes"
  end
  return body
end

-- True, or nil and why not.
function _M.write_whole(path, body)
  local temporary = path .. "." .. ngx.worker.pid()
  local file, fault = io.open(temporary, "wb")
  if not file then
    return nil, fault
  end
  local is_written, write_fault = file:write(body)
  local is_closed, close_fault = file:close()
  if not is_written or not is_closed then
    os.remove(temporary)
    return nil, write_fault or close_fault
  end
  return os.rename(temporary, path)
end

return _M
