/*
 * criterion/criterion.h: as much of criterion as our tests use, for tools that its runner can't be
 * run with (ThreadSanitizer, valgrind). Chosen with -Dtest_runner=plain; see plain/run.c.
 *
 * Test() and TestSuite() put themselves on a list before main. A test that fails an assertion ends
 * its process; one that fails an expectation goes on.
 */
#ifndef TESTS_LIB_PLAIN_CRITERION_H
#define TESTS_LIB_PLAIN_CRITERION_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct plain_options {
    void (*init)(void);
    void (*fini)(void);
    double timeout; /* s; 0: the runner's */
    int signal;     /* that it must end with */
};

struct plain_test {
    struct plain_test *next;
    const char *suite;
    const char *name; /* NULL: the suite itself, options for all of its tests */
    void (*run)(void);
    struct plain_options options;
};

void plain_add(struct plain_test *test);
void __attribute__((noreturn, format(printf, 4, 5)))
plain_assert_failed(const char *file, int line, const char *what, const char *format, ...);
void __attribute__((format(printf, 4, 5)))
plain_expect_failed(const char *file, int line, const char *what, const char *format, ...);

#define PLAIN_ADD(stem, in_suite, named, function, ...)                                            \
    static void __attribute__((constructor)) stem##_add(void)                                      \
    {                                                                                              \
        static struct plain_test test = {                                                          \
            .suite = (in_suite), .name = (named), .run = (function), .options = { __VA_ARGS__ }    \
        };                                                                                         \
        plain_add(&test);                                                                          \
    }
#define Test(in_suite, named, ...)                                                                 \
    static void plain_##in_suite##_##named(void);                                                  \
    PLAIN_ADD(                                                                                     \
        plain_##in_suite##_##named, #in_suite, #named, plain_##in_suite##_##named, __VA_ARGS__)    \
    static void plain_##in_suite##_##named(void)
#define TestSuite(in_suite, ...)                                                                   \
    PLAIN_ADD(plain_##in_suite, #in_suite, NULL, NULL, __VA_ARGS__)                                \
    struct plain_test

/* The blank is for messages that are not given: an empty format is warned about. */
#define PLAIN_CHECK(failed, condition, ...)                                                        \
    ((condition) ? (void)0 : failed(__FILE__, __LINE__, #condition, " " __VA_ARGS__))

#define cr_assert(condition, ...)         PLAIN_CHECK(plain_assert_failed, condition, __VA_ARGS__)
#define cr_assert_not(condition, ...)     cr_assert(!(condition), __VA_ARGS__)
#define cr_assert_eq(a, b, ...)           cr_assert((a) == (b), __VA_ARGS__)
#define cr_assert_neq(a, b, ...)          cr_assert((a) != (b), __VA_ARGS__)
#define cr_assert_lt(a, b, ...)           cr_assert((a) < (b), __VA_ARGS__)
#define cr_assert_leq(a, b, ...)          cr_assert((a) <= (b), __VA_ARGS__)
#define cr_assert_gt(a, b, ...)           cr_assert((a) > (b), __VA_ARGS__)
#define cr_assert_geq(a, b, ...)          cr_assert((a) >= (b), __VA_ARGS__)
#define cr_assert_null(a, ...)            cr_assert((a) == NULL, __VA_ARGS__)
#define cr_assert_not_null(a, ...)        cr_assert((a) != NULL, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)       cr_assert(strcmp((a), (b)) == 0, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...)      cr_assert(strcmp((a), (b)) != 0, __VA_ARGS__)
#define cr_assert_str_empty(a, ...)       cr_assert((a)[0] == '\0', __VA_ARGS__)
#define cr_assert_str_not_empty(a, ...)   cr_assert((a)[0] != '\0', __VA_ARGS__)
#define cr_assert_arr_eq(a, b, size, ...) cr_assert(memcmp((a), (b), (size)) == 0, __VA_ARGS__)
#define cr_assert_fail(...)               cr_assert(false, __VA_ARGS__)

#define cr_expect(condition, ...)         PLAIN_CHECK(plain_expect_failed, condition, __VA_ARGS__)
#define cr_expect_not(condition, ...)     cr_expect(!(condition), __VA_ARGS__)
#define cr_expect_eq(a, b, ...)           cr_expect((a) == (b), __VA_ARGS__)
#define cr_expect_neq(a, b, ...)          cr_expect((a) != (b), __VA_ARGS__)
#define cr_expect_lt(a, b, ...)           cr_expect((a) < (b), __VA_ARGS__)
#define cr_expect_leq(a, b, ...)          cr_expect((a) <= (b), __VA_ARGS__)
#define cr_expect_gt(a, b, ...)           cr_expect((a) > (b), __VA_ARGS__)
#define cr_expect_geq(a, b, ...)          cr_expect((a) >= (b), __VA_ARGS__)
#define cr_expect_null(a, ...)            cr_expect((a) == NULL, __VA_ARGS__)
#define cr_expect_not_null(a, ...)        cr_expect((a) != NULL, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)       cr_expect(strcmp((a), (b)) == 0, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...)      cr_expect(strcmp((a), (b)) != 0, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, size, ...) cr_expect(memcmp((a), (b), (size)) == 0, __VA_ARGS__)

#endif /* TESTS_LIB_PLAIN_CRITERION_H */
