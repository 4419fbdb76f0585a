/*
 * Errors and this thread's fault.
 */
#include <criterion/criterion.h>
#include <criterion/redirect.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>

/* Every error has its own number and name, a message, and comes back from its number. */
Test(base_err, table)
{
    static const enum q_err errs[] = {
#define ERR(name, number, retryable, message, hint) Q_##name,
        Q_ERR_LIST(ERR)
#undef ERR
    };
    for (size_t i = 0; i < sizeof(errs) / sizeof(errs[0]); i++) {
        cr_assert_eq(q_err_from_number((int)errs[i]), errs[i]);
        cr_assert_str_not_empty(q_err_message(errs[i]));
        cr_assert_not_null(q_err_hint(errs[i]));
        /* A name with E_ is a failure, and a failure is negative. */
        cr_assert_eq(strncmp(q_err_name(errs[i]), "E_", 2) == 0, (int)errs[i] < 0);
        for (size_t j = 0; j < i; j++) {
            cr_assert_neq(errs[i], errs[j]);
            cr_assert_str_neq(q_err_name(errs[i]), q_err_name(errs[j]));
        }
    }
    cr_assert_str_eq(q_err_name(Q_NOT_FOUND), "NOT_FOUND");
    cr_assert(q_err_retryable(Q_BUSY));
    cr_assert_not(q_err_retryable(Q_E_CORRUPT));
}

/* A number nobody knows is a protocol error with a harmless name. */
Test(base_err, unknown_numbers)
{
    cr_assert_eq(q_err_from_number(0), Q_OK);
    cr_assert_eq(q_err_from_number(9999), Q_E_PROTOCOL);
    cr_assert_eq(q_err_from_number(-9999), Q_E_PROTOCOL);
    cr_assert_str_eq(q_err_name((enum q_err)9999), "UNKNOWN");
    cr_assert_str_not_empty(q_err_message((enum q_err)9999));
    cr_assert_not(q_err_retryable((enum q_err)9999));
}

/* A fault holds what was recorded and where; what was left out is empty. */
Test(base_err, fault_records)
{
    cr_assert_eq(q_fault_last()->err, Q_OK);

    int line = __LINE__;
    enum q_err err = Q_FAIL(
        Q_E_CORRUPT, .path = "/data/1.log", .position = 4096, .sys = EIO,
        .what = "checksum differs", .hint = "verify it");
    cr_assert_eq(err, Q_E_CORRUPT);
    const struct q_fault *fault = q_fault_last();
    cr_assert_eq(fault->err, Q_E_CORRUPT);
    cr_assert_eq(fault->sys_errno, EIO);
    cr_assert_eq(fault->position, 4096);
    cr_assert_str_eq(fault->path, "/data/1.log");
    cr_assert_str_eq(fault->what, "checksum differs");
    cr_assert_str_eq(fault->hint, "verify it");
    cr_assert_not_null(strstr(fault->file, "test_base_err.c"));
    cr_assert(fault->line > line && fault->line <= line + 4);

    (void)Q_FAIL(Q_E_NOMEM);
    cr_assert_eq(fault->err, Q_E_NOMEM);
    cr_assert_eq(fault->sys_errno, 0);
    cr_assert_eq(fault->position, Q_POSITION_NONE);
    cr_assert_str_empty(fault->path);
    cr_assert_str_empty(fault->what);
}

/* Position 0 is a position, not the absence of one. */
Test(base_err, position_zero)
{
    char line[Q_FAULT_LINE_MAX];
    (void)Q_FAIL(Q_E_CORRUPT, .position = 0, .what = "bad head");
    cr_assert_eq(q_fault_last()->position, 0);
    cr_assert_str_eq(q_fault_format(q_fault_last(), line, sizeof(line)), "bad head at byte 0");
}

/* Texts longer than a fault are cut, and a fault can be made from the texts of the last one. */
Test(base_err, texts_are_copied)
{
    char text[1000];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    (void)Q_FAIL(Q_E_IO, .path = text, .what = text, .hint = text);
    cr_assert_eq(strlen(q_fault_last()->what), Q_FAULT_TEXT_MAX - 1);
    cr_assert_eq(strlen(q_fault_last()->path), Q_FAULT_PATH_MAX - 1);

    (void)Q_FAIL(Q_E_IO, .what = "first", .path = "/a");
    (void)Q_FAIL(Q_E_BROKEN, .hint = q_fault_last()->what, .what = q_fault_last()->path);
    cr_assert_str_eq(q_fault_last()->what, "/a");
    cr_assert_str_eq(q_fault_last()->hint, "first");
}

/* One line tells fact, path, byte and cause; without a fact the error's own message. */
Test(base_err, format)
{
    char line[Q_FAULT_LINE_MAX];
    (void)Q_FAIL(Q_E_IO, .what = "can't read", .path = "/d/x", .position = 7, .sys = EIO);
    cr_assert_str_eq(
        q_fault_format(q_fault_last(), line, sizeof(line)),
        "can't read: /d/x at byte 7: Input/output error");
    (void)Q_FAIL(Q_E_LOCKED, .path = "/d");
    cr_assert_str_eq(
        q_fault_format(q_fault_last(), line, sizeof(line)), "in use by another process: /d");
    char shorter[10];
    cr_assert_str_eq(q_fault_format(q_fault_last(), shorter, sizeof(shorter)), "in use by");
}

static void *
record_elsewhere(void *context)
{
    cr_assert_eq(q_fault_last()->err, Q_OK);
    (void)Q_FAIL(Q_E_NO_SPACE, .what = "disk full");
    *(struct q_fault *)context = *q_fault_last();
    return NULL;
}

/* Faults are per thread, and one can be carried over to another thread. */
Test(base_err, threads)
{
    (void)Q_FAIL(Q_E_IO, .what = "mine");
    struct q_fault theirs;
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, record_elsewhere, &theirs), 0);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    cr_assert_eq(q_fault_last()->err, Q_E_IO);
    q_fault_adopt(&theirs);
    cr_assert_eq(q_fault_last()->err, Q_E_NO_SPACE);
    cr_assert_str_eq(q_fault_last()->what, "disk full");
}

/* Eight texts live side by side; whatever is too long is cut. */
Test(base_err, text)
{
    const char *texts[8];
    for (int i = 0; i < 8; i++)
        texts[i] = q_text("%d", i);
    for (int i = 0; i < 8; i++)
        cr_assert_eq(texts[i][0], '0' + i);
    cr_assert_lt(strlen(q_text("%5000d", 1)), 5000);
}

/* The errno values that have an error of their own get it; others are input/output errors. */
Test(base_err, from_errno)
{
    cr_assert_eq(q_err_from_errno(ENOSPC), Q_E_NO_SPACE);
    cr_assert_eq(q_err_from_errno(EDQUOT), Q_E_NO_SPACE);
    cr_assert_eq(q_err_from_errno(EACCES), Q_E_PERMISSION);
    cr_assert_eq(q_err_from_errno(EROFS), Q_E_PERMISSION);
    cr_assert_eq(q_err_from_errno(ENOMEM), Q_E_NOMEM);
    cr_assert_eq(q_err_from_errno(ENOTDIR), Q_E_NOT_DIRECTORY);
    cr_assert_eq(q_err_from_errno(EADDRINUSE), Q_E_ADDRESS_IN_USE);
    cr_assert_eq(q_err_from_errno(ECONNRESET), Q_E_CONNECTION);
    cr_assert_eq(q_err_from_errno(EIO), Q_E_IO);
    cr_assert_eq(q_err_from_errno(EXDEV), Q_E_IO);
}

/* A failed assertion ends the process, in release builds too. */
Test(base_err, assertion, .signal = SIGABRT)
{
    cr_redirect_stderr();
    Q_ASSERT(1 + 1 == 3);
}
