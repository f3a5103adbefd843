"""Sends messages 1 to 12 to 127.0.0.1:PORT, in three sessions: every third to b@example.com, the others to
a@later.example.com. `version_1.rs` makes the same content."""

import smtplib
import sys

number = 0
for session in range(3):
    with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), "client.example.org") as smtp:
        for _ in range(4):
            number += 1
            to = "a@later.example.com" if number % 3 else "b@example.com"
            lines = "".join(f"line {line} of message {number}\r\n" for line in range(number * number))
            smtp.sendmail("sender@example.org", [to], f"Subject: message {number}\r\n\r\n{lines}")
