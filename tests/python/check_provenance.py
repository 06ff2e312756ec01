"""Checks what `twdag provenance` wrote with the validators of those who keep the formats.

    check_provenance.py ro-crate FOLDER    a folder with ro-crate-metadata.json: Process Run Crate, by roc-validator
    check_provenance.py in-toto FILE       an in-toto Statement with SLSA provenance, by the messages of in-toto-attestation
    check_provenance.py dsse FILE KEY STATEMENT    an envelope, signed by the key `ed25519:...`, that holds the statement, by securesystemslib
    check_provenance.py follow FILE BYTES  the JSON form: whether the way back leads to a file from outside that has these bytes
    check_provenance.py available          exit code 0 if all of them are installed

No network is asked: the JSON-LD context comes from the package `rocrate`.
"""

import hashlib
import importlib.resources
import json
import sys
import urllib.parse


# Recommendations that a program cannot follow, since nobody has told it.
UNKNOWABLE = {
    "ro-crate-1.1_22.3",  # who publishes the crate
    "ro-crate-1.1_28.1",  # whether content that is named by its digest can be had on the web
    "ro-crate-1.1_30.2",  # where the author works
    "ro-crate-1.1_30.3",
}


def context():
    return importlib.resources.files("rocrate").joinpath("data/ro-crate.jsonld").read_bytes()


def serve_context_without_network():
    """Lets the HTTP client of the validator find the context of RO-Crate, and nothing else."""
    import requests

    def send(self, request, **options):
        address = urllib.parse.urlsplit(request.url)
        if address.netloc != "w3id.org" or not address.path.startswith("/ro/crate/"):
            raise requests.ConnectionError(f"{request.url} is not asked for in this check")
        response = requests.Response()
        response.status_code, response.url, response.request = 200, request.url, request
        response.headers["Content-Type"] = "application/ld+json"
        response._content = context()
        response.raw = None
        return response

    requests.adapters.HTTPAdapter.send = send


def ro_crate(folder):
    from rocrate_validator.models import Severity, ValidationSettings
    from rocrate_validator.services import validate
    from rocrate_validator.utils import document_loader

    serve_context_without_network()
    document_loader.install_document_loader()
    settings = ValidationSettings(
        rocrate_uri=folder,
        profile_identifier="process-run-crate-0.5",
        requirement_severity=Severity.RECOMMENDED,
        skip_availability_check=True,
        no_cache=True,
    )
    result = validate(settings)
    problems = [
        f"{issue.severity.name}: {issue.check.identifier}: {issue.message} ({issue.violatingEntity})"
        for issue in result.get_issues()
        if issue.check.identifier not in UNKNOWABLE
    ]
    if problems:
        sys.exit("\n".join(problems))


def in_toto(path):
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message

    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    # Unknown fields are errors.
    Statement.copy_from_pb(json_format.ParseDict(document, Message())).validate()
    if document["predicateType"] != "https://slsa.dev/provenance/v1":
        sys.exit(f"the predicate is {document['predicateType']}")
    json_format.ParseDict(document["predicate"], Provenance())


def dsse(path, key, statement):
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    with open(path, encoding="utf-8") as file:
        envelope = Envelope.from_dict(json.load(file))
    public = SSlibKey(key, "ed25519", "ed25519", {"public": key.removeprefix("ed25519:")})
    envelope.verify([public], 1)
    with open(statement, encoding="utf-8") as file:
        if envelope.payload_type != "application/vnd.in-toto+json" or json.loads(envelope.payload) != json.load(file):
            sys.exit("the envelope holds something else than the statement")


def follow(path, content):
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    with open(content, "rb") as file:
        wanted = hashlib.file_digest(file, "sha256").hexdigest()
    actions = {action["key"]: action for action in document["actions"]}
    ways = [[key] for key in document["subject"]["made_by"]]
    while ways:
        way = ways.pop()
        action = actions[way[-1]]
        for entry in action["files"]:
            if not action["inputs"] and entry["sha256"] == wanted:
                stages = " <- ".join(actions[key]["stage"] for key in way)
                print(f"{stages}: {entry['path']} sha256:{wanted}")
                return
        ways.extend([*way, key] for read in action["inputs"] for key in read["made_by"])
    sys.exit(f"no way leads from {document['subject']['name']} to sha256:{wanted}")


def available():
    import in_toto_attestation  # noqa: F401
    import rocrate  # noqa: F401
    import rocrate_validator  # noqa: F401
    import securesystemslib.signer  # noqa: F401


if __name__ == "__main__":
    check, *arguments = sys.argv[1:]
    {"ro-crate": ro_crate, "in-toto": in_toto, "dsse": dsse, "follow": follow, "available": available}[check](*arguments)
