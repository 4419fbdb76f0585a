/*
 * run.c: runs the tests of one file, one after another, each in a process of its own.
 *
 *   test_NAME [PART]      those whose name SUITE::TEST has PART in it
 *
 * For tools under which criterion's own runner doesn't start; see criterion/criterion.h beside this.
 * Prints TAP. A test fails when an assertion does, when it ends in any other way than it should, or
 * when the tool says so at its end, by its exit code.
 */
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criterion/criterion.h>

enum {
    TIMEOUT_S = 60,
    SLOWER = 20, /* tools take their time */
    FAILED = 1
};

static struct plain_test *tests; /* in the order of the file */
static atomic_uint expectations_failed;

static bool run_test(const struct plain_test *test);
static void run_here(const struct plain_test *test, const struct plain_test *suite);
static const struct plain_test *suite_of(const struct plain_test *test);

int
main(int argc, char **argv)
{
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    unsigned count = 0;
    unsigned failed = 0;
    for (const struct plain_test *test = tests; test != NULL; test = test->next) {
        char name[256];
        if (test->name == NULL) continue;
        (void)snprintf(name, sizeof(name), "%s::%s", test->suite, test->name);
        if (argc > 1 && strstr(name, argv[1]) == NULL) continue;
        bool good = run_test(test);
        count++;
        if (!good) failed++;
        (void)printf("%s %u - %s\n", good ? "ok" : "not ok", count, name);
    }
    (void)printf("1..%u\n", count);
    return failed == 0 && count > 0 ? 0 : FAILED;
}

void
plain_add(struct plain_test *test)
{
    struct plain_test **end = &tests;
    while (*end != NULL)
        end = &(*end)->next;
    *end = test;
}

static bool
run_test(const struct plain_test *test)
{
    const struct plain_test *suite = suite_of(test);
    (void)fflush(NULL);
    pid_t child = fork();
    if (child < 0) return false;
    if (child == 0) run_here(test, suite);
    int status;
    if (waitpid(child, &status, 0) != child) return false;
    if (test->options.signal != 0)
        return WIFSIGNALED(status) && WTERMSIG(status) == test->options.signal;
    if (WIFSIGNALED(status)) (void)printf("# ended by signal %d\n", WTERMSIG(status));
    return status == 0;
}

static const struct plain_test *
suite_of(const struct plain_test *test)
{
    static const struct plain_test none = { 0 };
    for (const struct plain_test *at = tests; at != NULL; at = at->next)
        if (at->name == NULL && strcmp(at->suite, test->suite) == 0) return at;
    return &none;
}

/* In the child. It leaves by exit(), where tools say what they found. */
static void
run_here(const struct plain_test *test, const struct plain_test *suite)
{
    double timeout = test->options.timeout != 0 ? test->options.timeout : suite->options.timeout;
    (void)alarm((unsigned)((timeout != 0 ? timeout : TIMEOUT_S) * SLOWER));
    if (suite->options.init != NULL) suite->options.init();
    if (test->options.init != NULL) test->options.init();
    test->run();
    if (test->options.fini != NULL) test->options.fini();
    if (suite->options.fini != NULL) suite->options.fini();
    exit(atomic_load_explicit(&expectations_failed, memory_order_relaxed) == 0 ? 0 : FAILED);
}

static void __attribute__((format(printf, 4, 0)))
say_failed(const char *file, int line, const char *what, const char *format, va_list args)
{
    char text[512];
    (void)vsnprintf(text, sizeof(text), format, args);
    (void)fprintf(stderr, "%s:%d: failed: %s%s\n", file, line, what, text);
}

void
plain_assert_failed(const char *file, int line, const char *what, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say_failed(file, line, what, format, args);
    va_end(args);
    _exit(FAILED);
}

void
plain_expect_failed(const char *file, int line, const char *what, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say_failed(file, line, what, format, args);
    va_end(args);
    atomic_fetch_add_explicit(&expectations_failed, 1, memory_order_relaxed);
}
