"""Would COLO have released or checkpointed?  Two captures, of two guests with the same input.

``reading``     frames of a pcap or pcapng file, as a stream
``guest``       which of them the guest made
``alignment``   what the secondary would have sent if the assumed checkpoints had happened
``comparing``   both through a comparator of `colosim.protocol`
``compare``     the whole way; ``results``: tables, summary and figure
"""

from colosim.pcap.compare import compare_pcap
from colosim.pcap.errors import CaptureError
from colosim.pcap.results import PcapComparison
from colosim.pcap.streams import Numbers

__all__ = ["CaptureError", "Numbers", "PcapComparison", "compare_pcap"]
