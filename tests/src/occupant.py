"""Another program: it binds what it is told to, by a line on stdin, and says what came of it.

bind ADDRESS PORT reuse=0|1 v6only=0|1 owner=N|-  ->  ok ID PORT | the name of the errno; the socket listens
reuse_off ID      switches SO_REUSEPORT off
chown ID OWNER    gives the socket to another owner
accept ID         ->  ok N, the connections in its queue, which are taken and closed
pick INDEX ID     the kernel gives each connection to the member with this index of ID's group
close ID
"""
import ctypes, errno, os, socket, struct, sys

SO_REUSEPORT, SO_ATTACH_REUSEPORT_CBPF = 15, 51
sockets = {}


def bind(address, port, *options):
    options = dict(option.split("=") for option in options)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    one = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(options["v6only"]))
    if options["owner"] != "-":
        os.fchown(one.fileno(), int(options["owner"]), -1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, SO_REUSEPORT, int(options["reuse"]))
    one.bind((address, int(port)))
    one.listen(512)
    sockets[len(sockets)] = one
    return f"ok {len(sockets) - 1} {one.getsockname()[1]}"


def reuse_off(one):
    sockets[int(one)].setsockopt(socket.SOL_SOCKET, SO_REUSEPORT, 0)
    return "ok"


def chown(one, owner):
    os.fchown(sockets[int(one)].fileno(), int(owner), -1)
    return "ok"


def accept(one):
    one, count = sockets[int(one)], 0
    one.setblocking(False)
    try:
        while True:
            one.accept()[0].close()
            count += 1
    except BlockingIOError:
        return f"ok {count}"


def pick(index, one):
    code = struct.pack("HBBI", 0x06, 0, 0, int(index))
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(buffer))
    sockets[int(one)].setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, program)
    return "ok"


def close(one):
    sockets[int(one)].close()
    return "ok"


for line in sys.stdin:
    verb, *arguments = line.split()
    try:
        answer = {f.__name__: f for f in (bind, reuse_off, chown, accept, pick, close)}[verb](*arguments)
    except OSError as error:
        answer = errno.errorcode[error.errno]
    print(answer, flush=True)
