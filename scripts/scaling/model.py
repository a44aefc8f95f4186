"""The scaling model: the time of a data-parallel step, from the layers of a network and the speeds of the links."""
import functools
import math
import statistics
from dataclasses import dataclass

MIB = 1 << 20
# Assumed latency in seconds: queueing a collective, one hop over NVLink, one hop over the network.
LAUNCH, NVLINK_HOP, NETWORK_HOP = 20e-6, 2e-6, 10e-6


@dataclass(frozen=True)
class Cluster:
    """GPUs and links; speeds are achieved bus bandwidths in bytes per second and direction."""

    machines: int = 1
    gpus: int = 8
    # NVLink, of one GPU.
    nvlink: float = 475e9
    # All NICs of one machine.
    network: float = 350e9

    @property
    def ranks(self):
        return self.machines * self.gpus


@dataclass(frozen=True)
class Job:
    """A training step on one GPU. `layers` has the multiply-adds and the sizes of the parameters of each layer, in forward order."""

    layers: tuple
    step: float
    backward_fraction: float = 0.667
    overlap: float = 1.0
    first_bucket: int = MIB
    bucket: int = 25 * MIB
    # Bytes of an element in the communication.
    element: int = 4
    # Standard deviation of a rank's step time, as a fraction of the step.
    jitter: float = 0.0

    @property
    def bytes(self):
        return self.element * sum(sum(sizes) for _, sizes in self.layers)


@dataclass(frozen=True)
class Prediction:
    """Seconds of communication and of the parts that lengthen a step, and the efficiency without and with jitter."""

    communication: float
    exposed: float
    waiting: float
    efficiency: float
    with_jitter: float


def predict(job, cluster):
    """The step on all GPUs: buckets are reduced one after another as the backward pass completes them, then the loss; the optimizer waits."""
    backward = job.step * job.backward_fraction
    communication = end = 0.0
    for ready, size in buckets(job):
        ready = 1 - job.overlap * (1 - ready)
        time = all_reduce(size, cluster)
        end = max(end, ready * backward) + time
        communication += time
    loss = all_reduce(4, cluster)
    exposed = max(0.0, end + loss - backward)
    waiting = job.jitter * job.step * expected_maximum(cluster.ranks)
    efficiency = job.step / (job.step + exposed)
    return Prediction(communication + loss, exposed, waiting, efficiency, job.step / (job.step + exposed + waiting))


def all_reduce(size, cluster):
    """Seconds of an all-reduce: the faster of a ring through all GPUs and of a tree of machines whose GPUs form a ring."""
    machines, gpus, ranks = cluster.machines, cluster.gpus, cluster.ranks
    if ranks == 1:
        return 0.0
    inside = 2 * (gpus - 1) / gpus * size / cluster.nvlink
    if machines == 1:
        return LAUNCH + 2 * (gpus - 1) * NVLINK_HOP + inside
    ring = LAUNCH + 2 * (ranks - 1) * NETWORK_HOP + 2 * (ranks - 1) / ranks * size / min(cluster.nvlink, cluster.network)
    # Chunks are pipelined, so that the slower of both levels counts.
    between = 2 * (machines - 1) / machines * size / cluster.network
    hops = 2 * (gpus - 1) * NVLINK_HOP + 2 * math.ceil(math.log2(machines)) * NETWORK_HOP
    return min(ring, LAUNCH + hops + max(inside, between))


def buckets(job):
    """The buckets: when each is complete, as a fraction of the backward pass, and its bytes in the communication. A bucket ends when it has
    reached its size in f32, as in train/src/distributed/buckets.rs; a layer's time is proportional to its multiply-adds."""
    result, done, elements = [], 0, 0
    total = sum(macs for macs, _ in job.layers)
    for macs, sizes in reversed(job.layers):
        done += macs
        for size in reversed(sizes):
            elements += size
            if 4 * elements >= (job.bucket if result else job.first_bucket):
                result.append((done / total, elements * job.element))
                elements = 0
    if elements:
        result.append((1.0, elements * job.element))
    return result


@functools.lru_cache
def expected_maximum(ranks):
    """Expected maximum of `ranks` standard normal numbers: every step waits for the slowest rank."""
    samples = 2000
    quantiles = ((i + 0.5) / samples for i in range(samples))
    return 0.0 if ranks == 1 else statistics.fmean(statistics.NormalDist().inv_cdf(q ** (1 / ranks)) for q in quantiles)
