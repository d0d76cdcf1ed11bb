"""Tests of the self-test and the doctor."""
