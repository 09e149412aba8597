"""The config of a run: one YAML file whose keys are the names of arguments, checked key by key."""

from manynet.config._read import parse_assignment as parse_assignment
from manynet.config._read import parse_number as parse_number
from manynet.config._read import read_config as read_config
from manynet.config._read import save_config as save_config
from manynet.config._read import saved as saved
from manynet.config._resolve import resolve as resolve
from manynet.config._sections import Config as Config
from manynet.config._sections import DataConfig as DataConfig
from manynet.config._sections import DeployConfig as DeployConfig
from manynet.config._sections import ElasticConfig as ElasticConfig
from manynet.config._sections import LoraConfig as LoraConfig
from manynet.config._sections import RankingConfig as RankingConfig
from manynet.config._sections import SearchConfig as SearchConfig
from manynet.config._sections import TrainConfig as TrainConfig
from manynet.config._sections import differences as differences

__all__ = [
    "Config",
    "DataConfig",
    "DeployConfig",
    "ElasticConfig",
    "LoraConfig",
    "RankingConfig",
    "SearchConfig",
    "TrainConfig",
    "differences",
    "parse_assignment",
    "parse_number",
    "read_config",
    "resolve",
    "save_config",
    "saved",
]
