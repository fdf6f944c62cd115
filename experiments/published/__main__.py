"""``python -m experiments.published``: every source, and a table of how well each is predicted."""

from experiments.published.command import command_of_all
from experiments.published.gannet2017 import study as gannet2017
from experiments.published.nilicon2020 import study as nilicon2020
from experiments.published.plover2018 import study as plover2018
from experiments.published.remus2008 import experiment as remus2008
from experiments.published.rrc2022 import study as rrc2022
from experiments.published.straub2026 import study as straub2026
from experiments.published.su2020 import study as su2020
from experiments.published.vmwareft2010 import study as vmwareft2010

STUDIES = tuple(
    module.STUDY
    for module in (
        remus2008,
        plover2018,
        gannet2017,
        nilicon2020,
        straub2026,
        su2020,
        vmwareft2010,
        rrc2022,
    )
)

if __name__ == "__main__":
    command_of_all(STUDIES)()
