"""Starts the engine, and leaves behind an imported process from which its next lives are forked.

    python -m qlaunch_sglang.template COMMAND [ARGUMENT…]

imports what COMMAND (`…/bin/sglang serve …`) will need, forks itself once, and goes on as COMMAND.
The fork is the template: it does nothing but wait on the socket that was this process's standard
input. A message there with a command, a folder, variables and two descriptors (the new life's
output, and the pipe by which it is told to go on) makes it fork one more life, which costs no
import and shares its memory. Without a COMMAND this process itself becomes the template.

A message may also ask for a *supervisor* of another service, a replica's: the fork leaves a copy of
the template behind as a child of its own, and executes the supervisor, which so begins with a
template and without an import. `QLAUNCH_TEMPLATE` tells it which: descriptor, process, and what the
message said was imported.

All forks are made twice, so that template and lives become children of the supervisor, which is a
subreaper: it alone ends them, reaps them and hears how they ended. A process that finds another
parent ends at once. Each dies with the supervisor (`PR_SET_PDEATHSIG`), and the template also with
its socket. Where anything forbids forking, COMMAND starts as it would have without this module.
"""

import array
import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import runpy
import signal
import socket
import sys
import tempfile
import time

from qlaunch_sglang import fork_start

logger = logging.getLogger(__name__)

TITLE = "qlaunch::template"
"""What `ps` shows, and how the launcher's sampler knows it."""
_SERVER = ("sglang.launch_server", "sglang.srt.server_args", "sglang.srt.entrypoints.http_server")
_ADOPTED_S = 5.0
"""For the kernel to hand a process to the supervisor after its parent has ended: microseconds."""
_MESSAGE_BYTES = 1 << 20
INHERITED = "QLAUNCH_TEMPLATE"
"""Variable by which a supervisor that was forked hears of its template."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def main():
    """Import, leave the template behind, and become the command."""
    command, supervisor, channel = sys.argv[1:], os.getppid(), _channel()
    if channel is not None:
        if prepare():
            if not command:
                stand(channel, supervisor)
            leave_template(channel, supervisor)
        channel.close()
    if command:
        become(command)


def prepare():
    """Import what every life needs, and make it fit to be shared; False if none may be forked."""
    if fork_start.wanted() == "spawn":
        return False
    gc.disable()  # what is imported stays: the collector would only go over it again and again
    try:
        import sglang.cli.serve  # noqa: F401 - in the order in which the command imports
        from sglang.srt.plugins import load_plugins

        load_plugins()
        gc.disable()  # the plugin has turned to its own thresholds
        for name in _SERVER:
            importlib.import_module(name)
        fork_start.preload()
    except Exception as error:
        # The command imports it again, and then says itself what is wrong.
        _say(f"no template: {type(error).__name__}: {error}")
        return False
    finally:
        gc.enable()
    refusal = fork_start.why_not_fork("cpu")
    if refusal is not None:
        _say(f"no template: {refusal}")
        return False
    gc.collect()
    gc.freeze()
    fork_start.trim()
    return True


def leave_template(channel, supervisor):
    """Fork the template, a child of `supervisor`; this process goes on as the engine."""
    _flush()  # else the template's copy of what is not written yet would be written too
    if _fork_away() == "parent":
        return
    try:
        _adopted(supervisor)
        os.setsid()
        stand(channel, supervisor)
    finally:
        os._exit(0)


def stand(channel, supervisor):
    """Be the template, and say so; never returns."""
    _flush()
    _redirect(os.open(os.devnull, os.O_RDWR), 0, 1, 2)
    _entitle(TITLE)
    channel.send(json.dumps({"template": os.getpid()}).encode())
    serve(channel, supervisor)


def serve(channel, supervisor):
    """Fork lives as asked, until the supervisor lets go of the socket.

    Returns in a new life, when it has become its command; never in the template.
    """
    while True:
        message, descriptors = _receive(channel)
        if not message:
            os._exit(0)
        _fork_one(channel, supervisor, json.loads(message), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _fork_one(channel, supervisor, order, descriptors):
    reading, writing = os.pipe()
    if _fork_away() == "child":
        os.close(reading)
        channel.close()
        what = _run if "imported" not in order else _supervise
        live(order, descriptors, supervisor, writing, what)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    channel.send(answer or b"{}")


def live(order, descriptors, supervisor, announce, what):
    """Be `what(order)`, a life of the engine or a supervisor; never returns."""
    status = 1
    try:
        output, go = descriptors
        _adopted(supervisor)
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        _redirect(null, 0)
        _redirect(output, 1, 2)
        os.chdir(order["cwd"])
        os.write(announce, json.dumps({"pid": os.getpid()}).encode())
        os.close(announce)
        allowed = os.read(go, 1)
        os.close(go)
        if allowed:  # else the supervisor has given this life up: nobody would end it
            status = what(order)
    finally:
        _flush()
        os._exit(status)


def _supervise(order):
    """Leave a copy of the template behind, as a child, and become its supervisor."""
    me = os.getpid()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    copy = os.fork()
    if not copy:
        ours.close()
        _adopted(me)
        os.setsid()
        _redirect(os.open(os.devnull, os.O_RDWR), 1, 2)
        _entitle(TITLE)
        serve(theirs, me)
    for name in os.listdir("/proc/self/fd"):  # of libraries: Python's own are not inheritable
        with contextlib.suppress(OSError):
            os.set_inheritable(int(name), int(name) in (0, 1, 2, ours.fileno()))
    env = {**order["env"], INHERITED: f"{ours.fileno()} {copy} {order['imported']}"}
    program, *_ = command = order["argv"]
    try:
        os.execve(program, command, env)  # noqa: S606 - the launcher's own program, no shell
    except OSError as error:
        _say(f"{program}: {error.strerror}")


def _run(order):
    """Run it to its end, as an interpreter of its own would; the exit status."""
    command = order["argv"]
    _entitle(" ".join(command))
    for name, value in order["env"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    tempfile.tempdir = None
    try:
        become(command)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        sys.stderr.write(f"{ended.code}\n")
        return 1
    except BaseException:
        # As an interpreter does with what reaches its top: shown, and a status of 1.
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        _finish()
    return 0


def _finish():
    """What an interpreter does before it ends: threads, then what was registered for its exit."""
    import atexit
    import threading

    threading._shutdown()
    atexit._run_exitfuncs()


def become(command):
    """Run `PYTHON -m MODULE …` or a Python script in this process, as the main module."""
    if len(command) > 2 and command[1] == "-m":
        sys.argv = command[2:]
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(command)
        runpy.run_path(command[0], run_name="__main__")


def _fork_away():
    """Fork twice: `parent` here, `child` in a process whose parent ends at once."""
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        return "parent"
    if os.fork():
        os._exit(0)
    return "child"


def _adopted(supervisor):
    """Wait until `supervisor` is the parent, and die with it; end where it does not become so."""
    deadline = time.monotonic() + _ADOPTED_S
    while os.getppid() != supervisor:
        if time.monotonic() > deadline:
            os._exit(0)
        time.sleep(0.001)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor:  # it died before the line above took effect
        os._exit(0)


def _channel():
    """The socket that standard input is, or None; afterwards standard input is empty."""
    try:
        channel = socket.socket(fileno=os.dup(0))
        kind = channel.type
    except OSError:
        return None
    if kind != socket.SOCK_SEQPACKET:
        channel.close()
        return None
    os.set_inheritable(channel.fileno(), False)
    _redirect(os.open(os.devnull, os.O_RDONLY), 0)
    return channel


def _receive(channel):
    size = array.array("i").itemsize
    message, ancillary, _flags, _address = channel.recvmsg(
        _MESSAGE_BYTES, socket.CMSG_SPACE(2 * size)
    )
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % size])
    return message, list(descriptors)


def _redirect(source, *targets):
    for target in targets:
        os.dup2(source, target, inheritable=True)
    if source not in targets:
        os.close(source)


def _entitle(title):
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(title)


def _say(text):
    sys.stderr.write(f"qlaunch: {text}\n")
    sys.stderr.flush()


def _flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue


if __name__ == "__main__":
    main()
