/*
 * Bytes that the disk does not give: an error on that range, and the store goes on. A file that was
 * cut stands for a bad sector; where it is mapped, the kernel answers both with SIGBUS.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
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

/* An error for who asks for these messages, told once, and again a second later; publishes go on. */
Test(store_bad_disk, pull)
{
    publish_many(100, NULL);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    cut("segment-000000");
    for (unsigned i = 0; i < 3; i++) {
        cr_assert_eq(fixture_pull(&fixture, "g", "c", session, 10, 0).err, Q_E_IO);
        cr_assert(strstr(q_fault_last()->what, "messages 0 to 1") != NULL, "which ones");
    }
    unsigned told = fixture.events[QLOG_EVENT_READ_FAILED];
    cr_assert_gt(told, 0);
    q_clock_manual_advance_ns(&fixture.clock, 2 * (uint64_t)Q_NS_PER_S);
    cr_assert_eq(fixture_pull(&fixture, "g", "c", session, 10, 0).err, Q_E_IO);
    cr_assert_eq(fixture.events[QLOG_EVENT_READ_FAILED], told);
    cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 0);
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
