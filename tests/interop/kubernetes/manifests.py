"""The manifests: valid, and their commands do what they are there for. Directories of the node are ones of this test; the
uids are the real ones, so root is needed for them."""

import copy
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import kubernetes_validate
import yaml

binary, examples, fixture = sys.argv[1:]
VERSION = "1.37"
PATIENCE = 30


def check(name, holds, why=""):
    print(f"ok {name}" if holds else f"not ok {name}: {why}", flush=True)


def load(name):
    with open(os.path.join(examples, name)) as file:
        return yaml.safe_load(file)


def flaw(manifest):
    try:
        kubernetes_validate.validate(copy.deepcopy(manifest), VERSION, strict=True)
        return None
    except Exception as error:  # The validator's own judgement.
        return str(error).splitlines()[0]


daemonset, pod = load("daemonset.yaml"), load("pod.yaml")
for name, manifest in [("daemonset.yaml", daemonset), ("pod.yaml", pod)]:
    check(f"{name} is valid", flaw(manifest) is None, flaw(manifest))
wrong = copy.deepcopy(daemonset)
wrong["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["exec"]["comand"] = ["x"]
check("a wrong key would be seen", flaw(wrong) is not None)

spec = daemonset["spec"]["template"]["spec"]
broker, agent = spec["containers"][0], pod["spec"]["containers"][0]
node = {volume["name"]: volume.get("hostPath", {}).get("path") for volume in spec["volumes"]}
mounted = {mount["name"]: mount["mountPath"] for mount in broker["volumeMounts"]}
shared = pod["spec"]["volumes"][0]["hostPath"]["path"]
check("the pod mounts what the broker listens in, and nothing else of it", shared == node["socket"], (shared, node))
grace = spec["terminationGracePeriodSeconds"]
check("the grace is longer than a stop takes", grace >= 30, grace)

# The directories of the node, and the container's view of them: its paths become ours.
work = tempfile.mkdtemp(prefix="credbroker-node-")
os.chmod(work, 0o755)
places = {path: os.path.join(work, name) for name, path in mounted.items()}
for name in ("store", "socket", "own", "configuration"):
    os.mkdir(os.path.join(work, name))
os.chmod(os.path.join(work, "own"), 0o1777)
shutil.copy(binary, os.path.join(work, "credbroker"))
shutil.copy(os.path.join(fixture, "bin/grpc_health_probe"), work)


def here(text):
    # The longest first: /run/credbroker is not in /run/own, but a prefix must not win over a whole path.
    for path in sorted(places, key=len, reverse=True):
        text = text.replace(path, places[path])
    return text


def environment(container):
    plain = {variable["name"]: here(variable["value"]) for variable in container["env"] if "value" in variable}
    return {"PATH": f"{work}:/usr/bin:/bin"} | plain


def as_uid(uid, command):
    ids = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--bounding-set=-all", "--no-new-privs"]
    return ["setpriv", *ids, "--", *command]


def probe():
    command = [here(word) for word in broker["readinessProbe"]["exec"]["command"]]
    return subprocess.run(as_uid(uid, command), env=environment(broker), capture_output=True, text=True, timeout=PATIENCE)


def until(name, holds):
    end = time.monotonic() + PATIENCE
    while not (seen := holds()) and time.monotonic() < end:
        time.sleep(0.05)
    check(name, seen)


try:
    script = here(spec["initContainers"][0]["command"][2])
    # Without coreutils' own `install`, busybox has one that takes the same flags.
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    check("the directories are made", done.returncode == 0, done)
    uid, client = spec["securityContext"]["runAsUser"], pod["spec"]["securityContext"]["runAsUser"]
    raw = bytes(range(32))
    with open(os.path.join(work, "configuration/sandboxes.toml"), "w") as policy:
        policy.write(f'[sandboxes.agent]\ncapability_sha256 = "{hashlib.sha256(raw).hexdigest()}"\nallow = ["github"]\n')
    with open(os.path.join(work, "configuration/config.toml"), "w") as config:
        config.write('[providers.github]\npreset = "github"\nclient_id = "c"\n')
    # For `credbroker --config`'s default: $XDG_CONFIG_HOME/credbroker is the mounted directory.
    xdg = next(v for v in broker["env"] if v["name"] == "XDG_CONFIG_HOME")["value"]
    check("the configuration is where it is looked for", mounted["configuration"] == f"{xdg}/credbroker", mounted)
    os.makedirs(os.path.join(work, "xdg"))
    os.symlink(places[mounted["configuration"]], os.path.join(work, "xdg/credbroker"))
    own = environment(broker) | {"XDG_CONFIG_HOME": os.path.join(work, "xdg")}
    token = '{"access_token":"gho_node","refresh_token":"ghr_never","expires_in":3600}'
    imported = subprocess.run(
        as_uid(uid, ["credbroker", "token", "import", "github"]), env=own, input=token, capture_output=True, text=True
    )
    check("a token is imported through the broker's container", imported.returncode == 0, imported)

    def start():
        command = as_uid(uid, [*broker["command"], *(here(word) for word in broker["args"])])
        return subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def get(as_, capability):
        inside = {"PATH": f"{work}:/usr/bin:/bin", "CREDBROKER_SOCKET": os.path.join(places[mounted["socket"]], "sock")}
        inside |= {"CREDBROKER_CAPABILITY": capability} if capability else {}
        command = as_uid(as_, ["credbroker", "token", "get", "github"])
        return subprocess.run(command, env=inside, capture_output=True, text=True, timeout=PATIENCE)

    process = start()
    until("the probe says that the broker is ready", lambda: probe().returncode == 0)
    answer = get(client, raw.hex())
    check("the pod gets its token", answer.stdout == "gho_node\n", answer)
    check("without its capability it does not", get(client, None).returncode == 77)
    check("nor does another uid", get(client + 1, raw.hex()).returncode == 77)
    identity = os.path.join(places[mounted["store"]], "store/identity.txt")
    os.rename(identity, identity + ".away")
    until("the probe says when the store is locked", lambda: probe().returncode not in (0, None))
    os.rename(identity + ".away", identity)
    until("the probe says when it is unlocked", lambda: probe().returncode == 0)

    # A pod keeps the directory that it mounted, through a restart of the broker.
    directory = os.stat(places[mounted["socket"]])
    process.send_signal(signal.SIGTERM)
    check("SIGTERM ends it in order", process.wait(PATIENCE) == 0, process.returncode)
    refused = probe()
    check("the probe says when nobody is there", refused.returncode != 0, shlex.join(refused.args))
    process = start()
    until("the probe says that it is back", lambda: probe().returncode == 0)
    again = os.stat(places[mounted["socket"]])
    check("the directory is the same", (directory.st_dev, directory.st_ino) == (again.st_dev, again.st_ino))
    check("the pod gets its token again", get(client, raw.hex()).stdout == "gho_node\n")
    process.send_signal(signal.SIGTERM)
    check("and it ends", process.wait(PATIENCE) == 0)
finally:
    shutil.rmtree(work)
