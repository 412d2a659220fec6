"""What users and workers ask of a service, typed.

It stands on the vocabulary and the error tree alone: a worker needs no database and no web server.
"""

from dropt.client.answers import Answers
from dropt.client.catalogue import Catalogue
from dropt.client.events import Events
from dropt.client.files import Files
from dropt.client.jobs import Jobs
from dropt.client.protocol import WorkerProtocol


class Client(Jobs, Answers, Events, Catalogue, WorkerProtocol, Files):
    """One service; every method raises the error that the service raised, or ServiceUnreachable.

    `status` of an error says whether to try again: 429 and 5xx may pass.
    """
