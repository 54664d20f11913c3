"""Write the certificate by which the brokers of one cluster authenticate each other.

Every pod makes the same one from the same seed, so no pod has to ask the Kubernetes API for it. A CURVE secret key is
32 bytes, any; the public key follows from it.
"""

import ctypes
import hashlib
import os
import sys

_Z85 = 41  # 32 bytes in ZeroMQ's base 85, and a NUL


def main(path: str, seed: str) -> None:
    """Write the file; only its owner can read it, or Flux would refuse it."""
    zmq = ctypes.CDLL("libzmq.so.5")
    secret, public = ctypes.create_string_buffer(_Z85), ctypes.create_string_buffer(_Z85)
    if not zmq.zmq_z85_encode(secret, hashlib.sha256(seed.encode()).digest(), ctypes.c_size_t(32)):
        sys.exit("the seed cannot be made into a key")
    if zmq.zmq_curve_public(public, secret) != 0:
        sys.exit("libzmq has no CURVE security")
    keys = f'    public-key = "{public.value.decode()}"\n    secret-key = "{secret.value.decode()}"\n'
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(file, f'metadata\n    name = "cluster"\ncurve\n{keys}'.encode())
    os.close(file)


if __name__ == "__main__":
    os.makedirs("/mnt/flux/run", mode=0o700, exist_ok=True)  # the broker must own it
    main("/mnt/flux/curve.cert", os.environ["CURVE_SEED"])
