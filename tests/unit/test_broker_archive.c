/*
 * test_broker_archive.c: copies of what a store drops: each once, by one broker, and told what failed.
 */
#include <criterion/criterion.h>

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <qbase/err.h>

#include "broker/archive.h"

enum {
    SEGMENT_BYTES = 3 * 4096,
};

static char directory[64];
static char target[80];
static struct broker_archive *archive;

static void
start(void)
{
    cr_assert_eq(broker_archive_new(target, &archive), Q_OK, "%s", q_fault_last()->what);
}

static void
setup(void)
{
    (void)snprintf(directory, sizeof(directory), "/tmp/qmq-archive-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
    (void)snprintf(target, sizeof(target), "%s/kept", directory);
    start();
}

static void
teardown(void)
{
    char command[100];
    broker_archive_free(archive);
    (void)snprintf(command, sizeof(command), "rm -r %s", directory);
    cr_assert_eq(system(command), 0);
}

TestSuite(broker_archive, .init = setup, .fini = teardown, .timeout = 60);

/* A file that is told from others by its first block. */
static const char *
segment(unsigned number)
{
    static char path[100];
    static uint8_t bytes[SEGMENT_BYTES];
    (void)snprintf(path, sizeof(path), "%s/segment-%06u", directory, number);
    memset(bytes, (int)number + 1, sizeof(bytes));
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(bytes, 1, sizeof(bytes), file), sizeof(bytes));
    cr_assert_eq(fclose(file), 0);
    return path;
}

/* As the store asks: again until it is answered. */
static enum q_err
take(const char *path, unsigned number)
{
    const struct qlog_archive *taker = broker_archive_taker(archive);
    const struct timespec moment = { .tv_nsec = 1000 * 1000 };
    enum q_err err;
    while ((err = taker->take(taker->context, path, number * 10ull, number * 10ull + 10)) ==
           Q_AGAIN)
        (void)nanosleep(&moment, NULL);
    return err;
}

static unsigned
copies(void)
{
    char path[100];
    (void)snprintf(path, sizeof(path), "%s/message", target);
    DIR *stream = opendir(path);
    cr_assert_not_null(stream);
    unsigned count = 0;
    const struct dirent *entry;
    while ((entry = readdir(stream)) != NULL)
        if (entry->d_name[0] != '.') count++;
    (void)closedir(stream);
    return count;
}

/* However many the store could not drop before the end of the process. */
Test(broker_archive, each_once)
{
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(take(segment(i), i), Q_OK);
    cr_assert_eq(copies(), 3);
    broker_archive_free(archive);
    start();
    for (unsigned i = 1; i < 5; i++)
        cr_assert_eq(take(segment(i), i), Q_OK);
    cr_assert_eq(copies(), 5);
}

/* Two that give out numbers would write over each other's files. */
Test(broker_archive, one_broker)
{
    struct broker_archive *other;
    cr_assert_eq(broker_archive_new(target, &other), Q_E_LOCKED);
    cr_assert_neq(q_fault_last()->hint[0], '\0');
}

/* What failed is told with its cause, and tried again. */
Test(broker_archive, failure)
{
    cr_assert_lt(take("/nowhere", 0), Q_OK);
    cr_assert_eq(q_fault_last()->sys_errno, ENOENT);
    cr_assert_str_eq(q_fault_last()->path, "/nowhere");
    cr_assert_eq(take(segment(0), 0), Q_OK);
    cr_assert_eq(copies(), 1);
}
