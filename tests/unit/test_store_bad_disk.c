/*
 * Pages that the disk does not give: an error on that range, and the store goes on. A file that is
 * cut under its map stands for a bad sector: the kernel answers both with SIGBUS.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <qlog/guard.h>

#include "store/store.h"
#include "store_fixture.h"

static struct store_fixture fixture;

static void
setup(void)
{
    fixture_open(&fixture);
}

static void
teardown(void)
{
    fixture_close(&fixture);
}

TestSuite(store_bad_disk, .init = setup, .fini = teardown, .timeout = 60);

static void
publish_many(unsigned batches, const char *tag)
{
    for (unsigned i = 0; i < batches; i++)
        cr_assert_eq(
            fixture_publish(&fixture, fixture_subject, "a,b", tag, &(uint64_t){ 0 }), Q_OK);
}

static void
cut(const char *name)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/message/%s", fixture.directory, name);
    cr_assert_eq(truncate(path, 4096), 0);
}

static enum q_err
read_all(void *context)
{
    const struct qlog_pull *pull = context;
    unsigned sum = 0;
    for (uint32_t i = 0; i < pull->piece_count; i++)
        for (uint32_t j = 0; j < pull->pieces[i].envelope_size; j++)
            sum += pull->pieces[i].envelope[j];
    return sum > 0 ? Q_OK : Q_E_CORRUPT;
}

/* Who reads pieces under a guard gets an error, once for each try, and publishes go on. */
Test(store_bad_disk, pieces_under_a_guard)
{
    publish_many(100, NULL);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    struct qlog_run runs[8];
    struct qlog_piece pieces[8];
    for (unsigned i = 0; i < 3; i++) {
        struct qlog_pull pull = {
            .request.kind = QLOG_PULL,
            .who = {
                .subject = q_bytes_from_text(fixture_subject),
                .group = q_bytes_from_text("g"),
                .consumer = q_bytes_from_text("c"),
                .session = session,
            },
            .messages_max = 10,
            .bytes_max = 1 << 20,
            .runs = runs,
            .runs_max = 8,
            .pieces = pieces,
            .pieces_max = 8,
        };
        cr_assert_eq(fixture_run(&fixture, &pull.request), Q_OK);
        cr_assert_gt(pull.piece_count, 0);
        cr_assert_eq(qlog_guard(read_all, &pull), i == 0 ? Q_OK : Q_E_IO);
        qlog_pull_release(&pull);
        if (i == 0) cut("segment-000000");
    }
    publish_many(1, NULL);
}

/* A filter looks at envelopes on the store's own thread. */
Test(store_bad_disk, filter)
{
    publish_many(100, "red");
    uint64_t session = fixture_join(&fixture, "g", "c", "red");
    cut("segment-000000");
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 10, 0);
    cr_assert_eq(pulled.err, Q_E_IO);
    publish_many(1, "red");
}

/* What no guard is to blame for ends the process, as ever. */
Test(store_bad_disk, without_a_guard, .signal = SIGBUS)
{
    uint8_t byte = 1;
    uint8_t copy;
    /* Not a sanitizer's handler. */
    cr_assert_neq(signal(SIGBUS, SIG_DFL), SIG_ERR);
    cr_assert_eq(qlog_guard_copy(&copy, &byte, 1), Q_OK);
    fixture_close(&fixture);
    (void)raise(SIGBUS);
    (void)raise(SIGBUS);
}
