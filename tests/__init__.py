"""Tests, one package a package, so that files of the same name do not collide."""
