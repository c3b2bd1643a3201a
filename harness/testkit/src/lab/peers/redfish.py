"""sushy-emulator with the stand-in's chassis behind it: redfish.py DIR CHASSIS-PORT PORT CERTIFICATE KEY.

DIR/redfish.json says what goes wrong, read again for each request:
  status     answer everything below the service's root with this status
  hang       seconds before anything is answered
  drip       seconds between two bytes of an answer
  body       the body of every answer
  tasks      a reset is a task, done after so many seconds
  no-nmi     the reset types lack Nmi
  forget     sessions made before this one (a number that grows) are gone
"""

import json
import secrets
import socket
import sys
import threading
import time

import bcrypt
import flask
from sushy_tools import error
from sushy_tools.emulator import main as sushy
from sushy_tools.emulator.resources.systems import fakedriver

DIR, CHASSIS, PORT, CERTIFICATE, KEY = sys.argv[1:]
VERBS = {
    "On": "on", "ForceOn": "on", "ForceOff": "off", "GracefulShutdown": "soft",
    "ForceRestart": "reset", "GracefulRestart": "reset", "PowerCycle": "cycle", "Nmi": "nmi",
}
SOURCES = {"Pxe": "pxe", "Hdd": "disk", "None": "none"}
ROOT = "/redfish/v1"
SESSIONS = ROOT + "/SessionService/Sessions"


def chassis(verb):
    with socket.create_connection(("127.0.0.1", int(CHASSIS))) as peer:
        peer.sendall((verb + "\n").encode())
        status, _, answer = peer.makefile().readline().strip().partition(" ")
    if status != "ok":
        raise error.FishyError(answer, 500)
    return answer


def fault(name):
    try:
        with open(DIR + "/redfish.json") as file:
            return json.load(file).get(name)
    except FileNotFoundError:
        return None


class Driver(fakedriver.FakeDriver):
    def get_power_state(self, identity):
        self._get(identity)
        return chassis("status").capitalize()

    def set_power_state(self, identity, state):
        self._get(identity)
        if state not in VERBS or (state == "Nmi" and fault("no-nmi")):
            raise error.BadRequest(f"no reset type {state}")
        chassis(VERBS[state])

    def get_boot_device(self, identity):
        self._get(identity)
        source = chassis("boot").split(" ")[0]
        return {"pxe": "Pxe", "disk": "Hdd"}.get(source, "None")

    def set_boot_device(self, identity, source):
        self._get(identity)
        if source not in SOURCES:
            raise error.BadRequest(f"no boot source {source}")
        enabled = flask.request.json["Boot"].get("BootSourceOverrideEnabled", "Once")
        if enabled == "Disabled":
            source = "None"
        once = "" if enabled == "Continuous" or source == "None" else " once"
        chassis(f"boot {SOURCES[source]}{once}")


fakedriver.FakeDriver = sushy.fakedriver.FakeDriver = Driver
app = sushy.app
sessions = {}
tasks = {}


class Auth(sushy.RedfishAuthMiddleware):
    """Sessions beside basic authentication."""

    def __call__(self, env, start_response):
        token = env.get("HTTP_X_AUTH_TOKEN")
        known = token in sessions and sessions[token] >= (fault("forget") or 0)
        asks = env["REQUEST_METHOD"] == "POST" and env["PATH_INFO"].rstrip("/") == SESSIONS
        if known or asks:
            return self.app(env, start_response)
        return super().__call__(env, start_response)


sushy.RedfishAuthMiddleware = Auth


@app.route(ROOT + "/SessionService")
def session_service():
    return {"@odata.id": ROOT + "/SessionService", "Sessions": {"@odata.id": SESSIONS}}


@app.route(SESSIONS, methods=["POST"])
def log_in():
    asked = flask.request.get_json(force=True)
    try:
        sushy.auth_basic.authenticate(
            DIR + "/htpasswd", asked["UserName"], asked["Password"].encode())
    except error.Unauthorized:
        return {"error": {"message": "who is that"}}, 401
    token = secrets.token_hex(16)
    sessions[token] = fault("forget") or 0
    place = f"{SESSIONS}/{len(sessions)}"
    return {"@odata.id": place, "Id": str(len(sessions))}, 201, {
        "X-Auth-Token": token, "Location": place}


@app.route(SESSIONS + "/<number>", methods=["DELETE"])
def log_out(number):
    sessions.pop(flask.request.headers.get("X-Auth-Token"), None)
    return "", 204


@app.route(ROOT + "/TaskService/Tasks/<number>")
def task(number):
    done = time.monotonic() >= tasks[number]
    return {"@odata.id": flask.request.path, "Id": number, "TaskState": "Completed" if done else "Running",
            "TaskStatus": "OK"}, 200 if done else 202


@app.before_request
def before():
    if flask.request.path.rstrip("/") == ROOT:
        return None
    if fault("hang"):
        time.sleep(fault("hang"))
    if fault("status"):
        headers = {"Retry-After": "1"} if fault("status") == 503 else {}
        return {"error": {"message": "out of order"}}, fault("status"), headers
    if fault("body") is not None:
        return flask.Response(fault("body"), content_type="application/json")
    reset = flask.request.method == "POST" and flask.request.path.endswith("ComputerSystem.Reset")
    if reset and fault("tasks"):
        kind = flask.request.get_json(force=True).get("ResetType")
        if kind not in VERBS:
            return {"error": {"message": "no such reset type"}}, 400
        threading.Timer(fault("tasks"), chassis, [VERBS[kind]]).start()
        number = str(len(tasks) + 1)
        tasks[number] = time.monotonic() + fault("tasks")
        place = f"{ROOT}/TaskService/Tasks/{number}"
        return {"@odata.id": place, "Id": number, "TaskState": "New"}, 202, {"Location": place}
    return None


@app.after_request
def after(response):
    """What sushy-emulator says of every system alike."""
    path = flask.request.path.rstrip("/")
    if flask.request.method == "GET" and response.status_code == 200 and response.is_json:
        body = response.get_json()
        if path == ROOT:
            body["SessionService"] = {"@odata.id": ROOT + "/SessionService"}
            body["Links"] = {"Sessions": {"@odata.id": SESSIONS}}
        if path.startswith(ROOT + "/Systems/") and "Boot" in body:
            source = chassis("boot")
            body["Boot"]["BootSourceOverrideEnabled"] = (
                "Disabled" if source == "none" else "Once" if source.endswith("once") else "Continuous")
            body["Boot"]["BootSourceOverrideTarget@Redfish.AllowableValues"] = list(SOURCES)
            types = [kind for kind in VERBS if kind != "Nmi" or not fault("no-nmi")]
            body["Actions"]["#ComputerSystem.Reset"]["ResetType@Redfish.AllowableValues"] = types
        response.set_data(json.dumps(body))
    if fault("drip"):
        data, pause = response.get_data(), fault("drip")

        def drip():
            for byte in data:
                time.sleep(pause)
                yield bytes([byte])
        response.response = drip()
    return response


with open(DIR + "/bmc-password") as file:
    hashed = bcrypt.hashpw(file.readline().strip().encode(), bcrypt.gensalt(4))
with open(DIR + "/htpasswd", "w") as file:
    file.write(f"admin:{hashed.decode()}\n")
with open(DIR + "/sushy.conf", "w") as file:
    file.write(f"""
SUSHY_EMULATOR_FAKE_SYSTEMS = [{{
    'uuid': '27946b59-9e44-4fa7-8e91-f3527a1ef094', 'name': 'labhost', 'power_state': 'On',
    'nics': [{{'mac': '52:54:00:12:34:56', 'ip': '10.0.2.15'}}]}}]
SUSHY_EMULATOR_STATE_DIR = {DIR!r}
SUSHY_EMULATOR_AUTH_FILE = {DIR + "/htpasswd"!r}
""")
sys.argv = ["sushy-emulator", "--fake", "--config", DIR + "/sushy.conf", "--interface", "127.0.0.1",
            "--port", PORT, "--ssl-certificate", CERTIFICATE, "--ssl-key", KEY]
sys.exit(sushy.main())
