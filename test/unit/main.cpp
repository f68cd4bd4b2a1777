// The program around all unit tests (test/unit/*_test.cpp); doctest writes main() here, so no test file does.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
