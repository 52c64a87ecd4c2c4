"""AWS signatures against AWS's own examples, and one-time passwords against RFC 6238's."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest

from web.signatures import check_ec2, check_s3, find_counter

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SECRET_V4 = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
AT_V4 = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
AT_V2 = datetime(2011, 10, 3, 15, 19, 30, tzinfo=UTC)


def v4(signature, service="iam", names="content-type;host;x-amz-date", **changes):
    scope = f"AKIDEXAMPLE/20150830/us-east-1/{service}/aws4_request"
    return {
        "access": "AKIDEXAMPLE",
        "signature": signature,
        "verb": "GET",
        "host": "iam.amazonaws.com",
        "path": "/",
        "params": {"Action": "ListUsers", "Version": "2010-05-08"},
        "headers": {
            "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
            "Host": "iam.amazonaws.com",
            "X-Amz-Date": "20150830T123600Z",
            "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={names}, Signature={signature}",
        },
        "body_hash": EMPTY,
        **changes,
    }


def v2(signature, **changes):
    params = {
        "AWSAccessKeyId": "AKIAIOSFODNN7EXAMPLE",
        "Action": "DescribeJobFlows",
        "SignatureMethod": "HmacSHA256",
        "SignatureVersion": "2",
        "Timestamp": "2011-10-03T15:19:30",
        "Version": "2009-03-31",
        "Signature": signature,
    }
    given = {"access": "AKIAIOSFODNN7EXAMPLE", "signature": signature, "verb": "GET", "path": "/"}
    return given | {"host": "elasticmapreduce.amazonaws.com", "params": {**params, **changes}}


LIST_USERS = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
FLOWS = "i91nKc4PWAt0JJIdXwz9HxZCJDdiy6cf/Mj6vPxyYIs="
LATER, MUCH_LATER = timedelta(minutes=14), timedelta(minutes=16)
EC2 = [
    (SECRET_V4, v4(LIST_USERS), AT_V4, True),
    (SECRET_V4, v4(LIST_USERS), AT_V4 + LATER, True),
    (SECRET_V4, v4(LIST_USERS), AT_V4 + MUCH_LATER, False),
    (SECRET_V4, v4(LIST_USERS), AT_V4 - MUCH_LATER, False),
    (SECRET, v4(LIST_USERS), AT_V4, False),
    ("", v4(LIST_USERS), AT_V4, False),
    (SECRET_V4, v4("0" * 64), AT_V4, False),
    (SECRET_V4, v4(LIST_USERS, access="OTHER"), AT_V4, False),
    (SECRET_V4, v4(LIST_USERS, path="/x"), AT_V4, False),
    (SECRET_V4, v4(LIST_USERS, verb="POST"), AT_V4, False),
    (SECRET_V4, v4(LIST_USERS, params={"Action": "DeleteUser"}), AT_V4, False),
    (SECRET_V4, v4(LIST_USERS, headers={}, params={}), AT_V4, False),
    (SECRET_V4, v4(LIST_USERS, names="content-type;x-amz-date"), AT_V4, False),
    (SECRET, v2(FLOWS), AT_V2, True),
    (SECRET, v2(FLOWS), AT_V2 + MUCH_LATER, False),
    (SECRET, v2(FLOWS, Action="Other"), AT_V2, False),
    (SECRET, v2(FLOWS, SignatureVersion="1"), AT_V2, False),
    (SECRET, v2(FLOWS, SignatureMethod="None"), AT_V2, False),
    (SECRET, v2(FLOWS, Timestamp=""), AT_V2, False),
    (SECRET, v2(FLOWS, Expires="2011-10-03T15:19:29"), AT_V2, False),
    (SECRET, v2("x"), AT_V2, False),
]


@pytest.mark.parametrize(("secret", "given", "at", "fits"), EC2)
def test_ec2(secret, given, at, fits):
    assert check_ec2(secret, given, at) is fits


PUPPY = "GET\n\n\nTue, 27 Mar 2007 19:36:42 +0000\n/awsexamplebucket1/photos/puppy.jpg"
AT_S3 = datetime(2007, 3, 27, 19, 36, 42, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "signature", "at", "fits"),
    [
        (PUPPY, "qgk2+6Sv9/oM7G3qLEjTH1a1l1g=", AT_S3, True),
        (PUPPY, "qgk2+6Sv9/oM7G3qLEjTH1a1l1g=", AT_S3 + MUCH_LATER, False),
        (PUPPY + "x", "qgk2+6Sv9/oM7G3qLEjTH1a1l1g=", AT_S3, False),
        ("GET", "x", AT_S3, False),
        ("AWS4-HMAC-SHA256\nx", "x", AT_S3, False),
    ],
)
def test_s3(text, signature, at, fits):
    assert check_s3(SECRET, base64.b64encode(text.encode()).decode(), signature, at) is fits
    assert not check_s3(SECRET, "no base64!", signature, at)


@pytest.mark.parametrize(
    ("second", "passcode", "counter"),
    [(59, "287082", 1), (89, "287082", 1), (119, "287082", None), (1111111109, "081804", 37037036), (59, "0", None)],
)
def test_one_time_passwords(second, passcode, counter):
    at = datetime.fromtimestamp(second, UTC)
    assert find_counter("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", passcode, at) == counter
    assert find_counter("no base32!", passcode, at) is None
