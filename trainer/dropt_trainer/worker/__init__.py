"""The worker: registers with a service, leases trials, trains them, reports, and gives back.

One thread trains, one speaks for its pack, one sends heartbeats. Everything that is said of a
single example or a single weight lies in the engine below; here is the protocol (version 1).
"""
