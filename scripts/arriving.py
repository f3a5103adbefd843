"""What scripts/next-hops sends, and what it makes of that which arrives: all of it, as it was sent, and how often.

A message's mark is its number and how often the client had sent it by then. So what comes twice with one mark was
doubled by delivery; what comes with two marks was sent twice, by a client that did not see its 250.

Each run of ringmx, from a start to a kill, has a name of its own, which the next hop writes down. So a copy says which
run has handed it on. A message may be handed on again by a later run, if the kill came between its being taken and the
durable acknowledgement: then it was in flight at the kill, and had been taken just before. One run hands nothing on
twice. How many were in flight is known from both sides: what the next hop has taken from a run, without what that run
had counted as acknowledged just before its kill.
"""

import collections
import random
import re
import typing

# From a message's being taken to its acknowledgement's being durable: flushes begin 20 ms apart, and wait for the disk;
# and the first message of a group waits for what is said to the others.
TAKEN_BEFORE_KILL_MAX = 1.0

POOL = "".join(random.Random("pool").choice("abc .\u00e9") for _ in range(1 << 16))


class Arrival(typing.NamedTuple):
    octets: bytes
    is_envelope_right: bool
    # Of ringmx, from 0; None where nothing says it.
    run: int | None
    # Seconds since 1970.
    at: float


class Kill(typing.NamedTuple):
    """The end of a run."""
    at: float
    # Messages that it had counted as delivered and acknowledged.
    acknowledged: int


def content(domain, number, sent_count):
    """Lines of all lengths, with dots and 8-bit octets, and an end that says which message it is, sent how often."""
    draw = random.Random(f"{domain} {number}")
    # All that Postfix would add.
    date = "Date: Sun, 22 Nov 2026 16:00:00 +0000"
    message_id = f"Message-ID: <{number}.{sent_count}@{domain}>"
    lines = [f"Subject: {number}", "From: ada@client.example", date, message_id, ""]
    for _ in range(draw.randrange(0, 60)):
        at = draw.randrange(0, len(POOL) - 200)
        lines.append("." * draw.randrange(0, 4) + POOL[at : at + draw.randrange(0, 200)])
    lines.append(f"end of {number}, sent {sent_count} times")
    return "\r\n".join(lines).encode() + b"\r\n"


def mark_of(octets):
    """Number and times sent; None where it does not end as any message does."""
    end = re.fullmatch(rb"end of (\d+), sent (\d+) times", octets.rstrip().rsplit(b"\n", 1)[-1])
    return (int(end[1]), int(end[2])) if end else None


class Comparison:
    """What arrived in a domain, beside what the client was told: `acknowledged` has for each number how often it had
    been sent when its 250 came. `kills[n]` ended run n. `problems` says what must not be."""

    def __init__(self, domain, arrivals, acknowledged, kills):
        self.kills, self.problems = kills, []
        copies, self.wrong = collections.defaultdict(list), 0
        for arrival in arrivals:
            mark = mark_of(arrival.octets)
            sent = b"\n" + content(domain, *mark).replace(b"\r\n", b"\n") if mark else b""
            is_as_sent = mark and arrival.octets.replace(b"\r\n", b"\n").endswith(sent)
            if is_as_sent and arrival.is_envelope_right and arrival.run is not None:
                copies[mark].append(arrival)
            else:
                self.wrong += 1
        self.missing = sum(mark not in copies for mark in acknowledged.items())
        # What the client sent again, and had arrived all the same.
        self.resent = sum(acknowledged.get(number) != sent_count for number, sent_count in copies)
        self.doubled = sum(len(of_mark) > 1 for of_mark in copies.values())
        taken = collections.Counter(copy.run for of_mark in copies.values() for copy in of_mark)
        self.in_flight = [taken[run] - kill.acknowledged for run, kill in enumerate(kills)]
        # For each kill how long before it those were taken that came again.
        self.waits = [[] for _ in kills]
        for mark, of_mark in copies.items():
            self.judge_copies(mark, sorted(of_mark, key=lambda arrival: arrival.run))
        self.judge()

    def judge_copies(self, mark, copies):
        for earlier, later in zip(copies, copies[1:]):
            if earlier.run == later.run:
                self.problems.append(f"message {mark[0]}: no kill between two copies of it, both of run {earlier.run}")
            else:
                self.waits[earlier.run].append(self.kills[earlier.run].at - earlier.at)

    def judge(self):
        for number, (in_flight, waits) in enumerate(zip(self.in_flight, self.waits), 1):
            if len(waits) > in_flight:
                self.problems.append(f"kill {number}: {len(waits)} doubled, and {in_flight} were in flight")
            if max(waits, default=0) > TAKEN_BEFORE_KILL_MAX:
                self.problems.append(f"kill {number}: what was taken {max(waits):.1f} s before it came again")
        self.problems += [f"{self.missing} missing"] * (self.missing > 0)
        self.problems += [f"{self.wrong} not as they were sent"] * (self.wrong > 0)

    def lines(self):
        """What there is to say, for people."""
        yield (f"{self.missing} missing, {self.wrong} not as they were sent, "
               f"{self.resent} more that the client sent again, {self.doubled} doubled by delivery")
        doubled = sorted(len(waits) for waits in self.waits)
        if any(doubled):
            in_flight = sorted(self.in_flight)
            waits = sorted(wait for waits in self.waits for wait in waits)
            most, median = waits[-1] * 1000, waits[len(waits) // 2] * 1000
            yield (f"{len(doubled)} kills doubled {doubled[0]} to {doubled[-1]} each, {sum(doubled)} in all; "
                   f"in flight were {in_flight[0]} to {in_flight[-1]}, {sum(in_flight)} in all; "
                   f"taken {most:.0f} ms before the kill at most, half of them {median:.0f} ms or less")
