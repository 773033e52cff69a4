"""Serves EC2 with some instances on a free port of 127.0.0.1, and refuses every request that is not signed well.

Prints one line of JSON when it is ready; "stop" on standard input stops the production instances; ends with its input.
"""

import json
import logging
import sys
import urllib.request

import boto3
from moto.server import ThreadedMotoServer

REGION = "eu-west-1"
ANYTHING = {"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
endpoint = f"http://{host}:{port}"


def client(service):
    return boto3.client(
        service, endpoint_url=endpoint, region_name=REGION, aws_access_key_id="setup", aws_secret_access_key="setup"
    )


ec2, iam = client("ec2"), client("iam")


def run(count, tags):
    image = ec2.describe_images(MaxResults=5)["Images"][0]["ImageId"]
    tags = [{"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]
    instances = ec2.run_instances(ImageId=image, MinCount=count, MaxCount=count, TagSpecifications=tags)["Instances"]
    return [instance["InstanceId"] for instance in instances], [instance["PrivateIpAddress"] for instance in instances]


production, addresses = run(3, {"konsul": "production", "Name": "a & <b>"})
_, staging = run(1, {"konsul": "staging"})
run(2, {"other": "production"})
terminated, _ = run(1, {"konsul": "production"})
ec2.terminate_instances(InstanceIds=terminated)

iam.create_user(UserName="konsul")
key = iam.create_access_key(UserName="konsul")["AccessKey"]
policy = json.dumps({"Version": "2012-10-17", "Statement": [ANYTHING]})
iam.put_user_policy(UserName="konsul", PolicyName="ec2", PolicyDocument=policy)

# From here on signatures are checked: zero more requests without.
plain = {"Content-Type": "text/plain"}
request = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", data=b"0", headers=plain, method="POST")
urllib.request.urlopen(request).read()

told = {
    "endpoint": endpoint,
    "access_key_id": key["AccessKeyId"],
    "secret_access_key": key["SecretAccessKey"],
    "production": addresses,
    "any": addresses + staging,
}
print(json.dumps(told), flush=True)

admin = boto3.client(
    "ec2",
    endpoint_url=endpoint,
    region_name=REGION,
    aws_access_key_id=key["AccessKeyId"],
    aws_secret_access_key=key["SecretAccessKey"],
)
for line in sys.stdin:
    if line.strip() == "stop":
        admin.stop_instances(InstanceIds=production)
        print("stopped", flush=True)
server.stop()
