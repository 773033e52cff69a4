"""Serves S3 with an empty bucket "backups" on a free port of 127.0.0.1, or of the address that is given, and refuses every request that is not signed well.

Prints one line of JSON when it is ready, and for each "list" on standard input the objects; ends with its input.
"""

import json
import logging
import sys
import urllib.request

import boto3
from moto.server import ThreadedMotoServer

ANYTHING = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address=(sys.argv + ["127.0.0.1"])[1], port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
endpoint = f"http://{host}:{port}"


def client(service, key="setup", secret="setup"):
    return boto3.client(
        service, endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret
    )


client("s3").create_bucket(Bucket="backups")
iam = client("iam")
iam.create_user(UserName="konsul")
key = iam.create_access_key(UserName="konsul")["AccessKey"]
policy = json.dumps({"Version": "2012-10-17", "Statement": [ANYTHING]})
iam.put_user_policy(UserName="konsul", PolicyName="s3", PolicyDocument=policy)

# From here on signatures are checked: zero more requests without.
plain = {"Content-Type": "text/plain"}
request = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", data=b"0", headers=plain, method="POST")
urllib.request.urlopen(request).read()

keys = key["AccessKeyId"], key["SecretAccessKey"]
print(json.dumps({"endpoint": endpoint, "access_key_id": keys[0], "secret_access_key": keys[1]}), flush=True)

s3 = client("s3", *keys)
for line in sys.stdin:
    if line.strip() == "list":
        objects = s3.list_objects_v2(Bucket="backups").get("Contents", [])
        print(json.dumps({thing["Key"]: thing["Size"] for thing in objects}), flush=True)
server.stop()
