"""A real S3 server for the tests: moto, which checks the signature of every request.

Usage: s3_server.py FOLDER

Puts every file below FOLDER into the bucket "photos" under its relative path, then prints one line of JSON (url, key, secret)
and serves until its standard input ends.
"""

import json
import logging
import os
import sys
from pathlib import Path

# The first requests, which make the user, are not checked, but boto3 wants credentials for them.
os.environ.update(AWS_ACCESS_KEY_ID="setup", AWS_SECRET_ACCESS_KEY="setup", AWS_DEFAULT_REGION="us-east-1")

import boto3
import moto.settings
from moto.server import ThreadedMotoServer

BUCKET = "photos"


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://127.0.0.1:%d" % server.get_host_and_port()[1]

    iam = boto3.client("iam", endpoint_url=url)
    iam.create_user(UserName="mae")
    statement = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    iam.put_user_policy(UserName="mae", PolicyName="s3", PolicyDocument=json.dumps(policy))
    access = iam.create_access_key(UserName="mae")["AccessKey"]
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)

    # From here on every request must be signed.
    moto.settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    key, secret = access["AccessKeyId"], access["SecretAccessKey"]
    s3 = boto3.client("s3", endpoint_url=url, aws_access_key_id=key, aws_secret_access_key=secret)
    folder = Path(sys.argv[1])
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            s3.put_object(Bucket=BUCKET, Key=path.relative_to(folder).as_posix(), Body=path.read_bytes())
    print(json.dumps({"url": url, "key": key, "secret": secret}), flush=True)

    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
