"""Who holds the loop? 100,000 instances, an inventory update, a browser's page."""
import asyncio, json, sys, time, threading, collections, traceback, gc, random, os
import uvloop, aiohttp
from pathlib import Path
from exporter import config as configuration
from exporter.app import Exporter
from exporter.cli import COLLECTOR_THRESHOLDS
from exporter.config import Given
N=int(sys.argv[1]); INV=Path("/tmp/hold-%d.json"%os.getpid()); INTERVAL=sys.argv[2]; base=sys.argv[3] if len(sys.argv)>3 else None
if base: entries=json.loads(Path(base).read_bytes())
else: entries=[{"id":f"i-{n:06d}","url":f"http://127.1.{n//250%250}.{n%250+1}:9","node":f"node-{n//1000}","model":"m%d"%(n%4),"engine":"fleet"} for n in range(N)]
random.seed(1)
def changed(shuffle):
    e=[dict(x) for x in entries]
    for x in e[:N//10]: x["model"]="other"
    del e[-N//20:]
    e+= [{"id":f"new-{n:06d}","url":f"http://127.1.{n//250%250}.{n%250+1}:9","node":"x","engine":"fleet"} for n in range(N//20)]
    if shuffle: random.shuffle(e)
    return e
def write(e):
    t=INV.with_suffix(".tmp"); t.write_text(json.dumps(e)); t.rename(INV)
last=time.perf_counter(); phase="start"; late=collections.defaultdict(list); stacks=collections.Counter(); cur=[]
main_id=threading.get_ident()
def watch():
    prev=None
    while True:
        time.sleep(.002)
        now=time.perf_counter()
        if now-last>.012:
            f=sys._current_frames().get(main_id)
            st=traceback.extract_stack(f)[-6:]
            cur.append((now-last," < ".join(f"{s.name}:{s.filename.split('/')[-1]}:{s.lineno}" for s in reversed(st))))
async def ticker():
    global last
    while True:
        await asyncio.sleep(.002)
        now=time.perf_counter(); d=now-last-.002; last=now
        late[phase].append(d)
        if d>.012:
            seen={s for _,s in cur}
            for s in (seen or {"? (gil held)"}): stacks[phase, s]+=1; worst[phase,s]=max(worst.get((phase,s),0),d)
        cur.clear()
worst={}
async def main():
    global phase
    write(entries)
    given={k:Given((v,),"--"+k) for k,v in {"inventory":str(INV),"web.listen-address":"127.0.0.1:18555","poll.interval":INTERVAL,"inventory.refresh-interval":"3s","log.level":"info"}.items()}
    cfg=configuration.build(given)
    import logging; logging.basicConfig(level=logging.INFO)
    threading.Thread(target=watch,daemon=True).start()
    t=asyncio.create_task(ticker())
    async with Exporter(cfg) as ex:
        gc.collect(); gc.freeze(); gc.set_threshold(*COLLECTOR_THRESHOLDS)
        phase="first cycle"
        await ex._poller.has_seen_all.wait(); phase="steady"
        await asyncio.sleep(float(INTERVAL[:-1])+2)
        phase="update sorted"; write(changed(False)); await asyncio.sleep(14)
        phase="update shuffled"; write(changed(True)); await asyncio.sleep(8)
        write(entries); await asyncio.sleep(14)
        phase="page"
        async with aiohttp.ClientSession() as s:
            for path in ("/fleet/state","/fleet","/fleet/api/state","/"):
                try:
                    async with s.get("http://127.0.0.1:18555"+path) as r: print(path, r.status, len(await r.read()))
                except Exception as e: print(path,e)
            if os.environ.get("PATHS"):
                for path in os.environ["PATHS"].split():
                    async with s.get("http://127.0.0.1:18555"+path) as r: print(path, r.status, len(await r.read()))
        phase="end"
    for p,l in late.items():
        l.sort(); print(f"{p:18} n={len(l)} p99={l[int(.99*len(l))]*1e3:.1f} worst={' '.join('%.0f'%(x*1e3) for x in l[-5:])} ms")
    for (p,s),n in stacks.most_common(400):
        if worst[p,s]>.015 and p!="start": print(f"{n:4} {worst[p,s]*1e3:5.0f} ms [{p}] {s}")
uvloop.run(main())
INV.unlink()
