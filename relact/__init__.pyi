"""The public names, for type checkers and editors; at run time each is found on first use."""

__version__: str

from . import errors as errors
from . import kernels as kernels
from .ablating.ablate import ablate as ablate
from .ablating.options import AblateOptions as AblateOptions
from .analysis.compare import agreement as agreement
from .analysis.compare import moved as moved
from .analysis.compare import overlap as overlap
from .analysis.effects import cumulativity as cumulativity
from .analysis.effects import effects as effects
from .analysis.evidence import evidence as evidence
from .analysis.evidence import influences as influences
from .analysis.query import activations as activations
from .analysis.query import extremes as extremes
from .analysis.query import neuron as neuron
from .analysis.query import open as open
from .analysis.query import top as top
from .analysis.tables import write_table as write_table
from .capturing.capture import capture as capture
from .capturing.options import CaptureOptions as CaptureOptions
from .exchange.formats import export as export
from .exchange.selfcond import import_scores as import_scores
from .packed.store import open_store as open_store
from .relations.options import PromptOptions as PromptOptions
from .relations.prompts import prompts as prompts
from .reporting.report import charts as charts
from .reporting.report import report as report
from .scoring.masks import combine as combine
from .scoring.masks import select as select
from .scoring.options import ScoreOptions as ScoreOptions
from .scoring.score import score as score
from .scoring.stability import stability as stability
from .sharing.catalogue import stores as stores
from .sharing.pack import pack as pack
from .sharing.publish import pull as pull
from .sharing.publish import push as push
from .sharing.stream import stream as stream
from .sharing.unpack import unpack as unpack
from .store.reading import Store as Store
from .store.verify import verify as verify
from .studies.repeat import repeat as repeat
from .studies.run import Study as Study
from .studies.run import run as run
