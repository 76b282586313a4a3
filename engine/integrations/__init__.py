"""The engine inside other frameworks: one file for each, which imports it; importing `cannonade` imports none of them.

A file translates and computes nothing itself. A `DefendedClassifier` is an ordinary module, so most frameworks attack it as it
is; what they need besides is here, and an adapter by which our attacks are called as theirs.
"""
