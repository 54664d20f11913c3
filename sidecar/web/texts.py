"""What the pages say that is not in a template: the words of scripts, and of messages."""

from __future__ import annotations

#: For the scripts, which find them in the page.
SCRIPTS = {
    "lost": "The connection is lost; this page tries again.",
    "gone": "The instance has ended. If it was a MiniCluster, its Job is complete.",
    "copied": "Copied",
    "copy": "Copy",
    "followed": "Following",
    "paused": "Paused",
    "ended": "The job has ended; this is all of its output.",
    "ended_here": "The job has ended; this is the end of its output.",
    "redirected": "{stream} of task {rank} goes to {path}",
    "nothing": "The job has written nothing yet.",
    "nothing_ever": "The job has written nothing.",
    "shortened": "Only the last {lines} lines are kept here; download all of it.",
    "matches": "{count} lines match",
    "cancel_one": "Cancel this job?",
    "cancel_many": "Cancel {count} jobs?",
    "pending": "pending",
    "running": "running",
}

#: What has just been done, by the word that an address has for it.
SAID = {
    "launched": "The launcher was started; the jobs that it submits appear in this table.",
    "cancelled": "The job is asked to end.",
    "signalled": "The job is sent the signal.",
    "drained": "The node is drained: nothing more is started there.",
    "undrained": "The node takes jobs again.",
}

WHY_HELD = "held: urgency 0"
WHY_DEPENDS = "waits for {dependencies}"
WHY_STOPPED = "queue {queue} is stopped"
WHY_PRIORITY = "waits for a priority"
WHY_RESOURCES = "waits for resources"
