"""The next hops of scripts/next-hops: Postfix by SMTP, Dovecot by LMTP, a receiver by HTTP; and what arrived there."""

import hashlib
import hmac
import http.server
import os
import re
import shutil
import subprocess
import threading
import time

from arriving import Arrival

PACKAGES = {"postfix": ["postfix"], "dovecot": ["dovecot-core", "dovecot-lmtpd"]}
PROGRAMS = {"postfix": "/usr/sbin/postfix", "dovecot": "/usr/sbin/dovecot"}
POSTFIX_PORT, HTTP_PORT = 2728, 2729
SENDER, SECRET = "ada@client.example", b"whoever has this may post"
POSTFIX_MAIN = """
compatibility_level = 3.6
queue_directory = {directory}/postfix/queue
data_directory = {directory}/postfix/data
mail_owner = postfix
setgid_group = postdrop
myhostname = postfix.example
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
virtual_mailbox_domains = postfix.example
virtual_mailbox_base = {directory}/postfix/mail
virtual_mailbox_maps = static:box/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_mailbox_limit = 0
smtpd_client_connection_count_limit = 0
enable_long_queue_ids = yes
maillog_file = {directory}/postfix/log
maillog_file_prefixes = {directory}
"""
# No chroot: there is nothing of the system in the temporary queue.
POSTFIX_MASTER = f"""
127.0.0.1:{POSTFIX_PORT} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
DOVECOT = """
protocols = lmtp
listen = 127.0.0.1
base_dir = {directory}/dovecot/run
state_dir = {directory}/dovecot/state
log_path = {directory}/dovecot/log
ssl = no
mail_location = maildir:{directory}/dovecot/mail
first_valid_uid = 1
userdb {{
  driver = static
  args = uid=65534 gid=65534 home={directory}/dovecot/home
}}
passdb {{
  driver = static
  args = nopassword=y
}}
service lmtp {{
  unix_listener {directory}/dovecot/lmtp {{
    mode = 0666
  }}
  process_min_avail = 2
}}
service stats {{
  unix_listener stats-writer {{
    mode = 0666
  }}
}}
"""


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, **options)


def install(peer):
    if peer not in PROGRAMS or os.path.exists(PROGRAMS[peer]):
        return
    print(f"installing {' '.join(PACKAGES[peer])}", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "update", env=environment)
    run("apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES[peer], env=environment)


class Maildir:
    """Of a server that writes the reverse-path on top, and then a trace field with the name that ringmx gave."""

    def __init__(self, path):
        self.new = path / "new"

    def arrived_count(self):
        return len(os.listdir(self.new)) if self.new.exists() else 0

    def arrived(self):
        for file in self.new.iterdir():
            octets = file.read_bytes()
            trace = re.search(rb"^Received: from front-(\d+)\.example", octets, re.M)
            is_envelope_right = octets.startswith(f"Return-Path: <{SENDER}>".encode())
            yield Arrival(octets, is_envelope_right, int(trace[1]) if trace else None, self.taken_at(file, octets))

    def taken_at(self, file, octets):
        """Its time of change: a server may set any other."""
        return file.stat().st_ctime


class Postfix(Maildir):
    name, domain = "Postfix", "postfix.example"

    def __init__(self, directory):
        super().__init__(directory / "postfix" / "mail" / "box")
        self.config, self.queue = directory / "postfix" / "config", directory / "postfix" / "queue"
        for part in ("config", "queue", "data", "mail"):
            (directory / "postfix" / part).mkdir(parents=True)
        os.chown(directory / "postfix" / "mail", 65534, 65534)
        shutil.chown(directory / "postfix" / "data", "postfix")
        (self.config / "main.cf").write_text(POSTFIX_MAIN.format(directory=directory))
        (self.config / "master.cf").write_text(POSTFIX_MASTER)
        run("postfix", "-c", self.config, "start")

    def taken_at(self, file, octets):
        """It delivers in its own time; its id has the time at which it began to take it: six digits or more of seconds
        and four of microseconds, to base 52, before an inode's."""
        digits = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
        name = re.search(rb"\(Postfix\) with \w+ id (\w+)z\w+\s", octets)[1].decode()
        number = lambda text: sum(digits.index(digit) * 52**place for place, digit in enumerate(reversed(text)))
        return number(name[:-4]) + number(name[-4:]) / 1e6

    def wait(self):
        """Until it has delivered what it has taken."""
        until = time.monotonic() + 600
        parts = [self.queue / part for part in ("maildrop", "incoming", "active", "deferred")]
        while any(files for part in parts for _, _, files in os.walk(part)) and time.monotonic() < until:
            time.sleep(0.5)

    def stop(self):
        subprocess.run(["postfix", "-c", self.config, "stop"], capture_output=True)


class Dovecot(Maildir):
    name, domain = "Dovecot", "dovecot.example"

    def __init__(self, directory):
        home = directory / "dovecot"
        super().__init__(home / "mail")
        for part in ("run", "state", "mail", "home"):
            (home / part).mkdir(parents=True)
        for part in ("mail", "home"):
            os.chown(home / part, 65534, 65534)
        (home / "dovecot.conf").write_text(DOVECOT.format(directory=directory))
        self.process = subprocess.Popen(
            [PROGRAMS["dovecot"], "-F", "-c", str(home / "dovecot.conf")], stdout=subprocess.DEVNULL,
        )

    def wait(self):
        """It answers behind the delivery."""

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=60)


class Receiver:
    """Keeps what is posted with a good signature; refuses the rest, so that it goes missing."""

    name, domain = "HTTP", "http.example"

    def __init__(self, directory):
        self.posted = posted = []
        expected = (SENDER, [f"bob@{self.domain}"])

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                is_whole = len(body) == int(self.headers["Content-Length"])
                taken = is_whole and is_genuine(self.headers, body)
                if taken:
                    envelope = (self.headers["Ringmx-Mail-From"], self.headers.get_all("Ringmx-Rcpt-To"))
                    # The path tells who posts.
                    posted.append(Arrival(body, envelope == expected, int(self.path.rsplit("/", 1)[1]), time.time()))
                self.send_response(200 if taken else 403)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_):
                """A sender that is killed leaves a connection behind."""

        self.server = Server(("127.0.0.1", HTTP_PORT), Handler)
        threading.Thread(daemon=True, target=self.server.serve_forever).start()

    def arrived_count(self):
        return len(self.posted)

    def arrived(self):
        return self.posted

    def wait(self):
        """It has what it has answered."""

    def stop(self):
        self.server.shutdown()


def is_genuine(headers, body):
    stamp, mac = (part.split("=")[1] for part in headers["Ringmx-Signature"].split(","))
    to = ",".join(headers.get_all("Ringmx-Rcpt-To"))
    lines = [stamp, headers["Ringmx-Id"], headers["Ringmx-Mail-From"], to, hashlib.sha256(body).hexdigest()]
    expected = hmac.new(SECRET, "\n".join(lines).encode(), "sha256").hexdigest()
    return hmac.compare_digest(mac, expected) and abs(time.time() - int(stamp)) < 300


PEERS = {"postfix": Postfix, "dovecot": Dovecot, "http": Receiver}
