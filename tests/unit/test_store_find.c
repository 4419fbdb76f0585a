/*
 * Messages are found by their key: in memory, in index files, damaged ones, and after a crash.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "store/store.h"
#include "store_fixture.h"

enum {
    BATCHES = 400, /* about six segments */
    EACH = 2,      /* messages of one */
    STRIDE = 37,   /* between batches with the key */
    FOUND_MAX = 64,
};

static struct store_fixture fixture;

static void
setup(void)
{
    fixture_open(&fixture);
    q_clock_manual_advance_ns(&fixture.clock, Q_NS_PER_S);
}

static void
teardown(void)
{
    fixture_close(&fixture);
}

TestSuite(store_find, .init = setup, .fini = teardown, .timeout = 60);

static void
set_key(const char *key)
{
    (void)snprintf(fixture.key, sizeof(fixture.key), "%s", key);
}

static void
publish(const char *subject, const char *key)
{
    set_key(key);
    cr_assert_eq(fixture_publish(&fixture, subject, "a,b", NULL, NULL), Q_OK);
    set_key("");
}

/* One in STRIDE has the key; others have another one, or none; so does another subject. */
static void
publish_many(unsigned batches)
{
    for (unsigned i = 0; i < batches; i++) {
        publish(fixture_subject, i % STRIDE == 0 ? "wanted" : i % 2 == 0 ? "other" : "");
        if (i % 10 == 0) publish("others", "wanted");
    }
}

/* What is to become index files has become them. */
static void
settle_index(void)
{
    const struct ql_index_files *files = &fixture.store->index.files;
    uint64_t until_ns = q_clock_monotonic_ns(q_clock_system()) + 50 * (uint64_t)Q_NS_PER_S;
    /* Names of subjects are flushed. */
    q_clock_manual_advance_ns(&fixture.clock, Q_NS_PER_S);
    do {
        fixture_rest(&fixture);
        cr_assert_lt(q_clock_monotonic_ns(q_clock_system()), until_ns);
    } while (files->cut_count > 0 || files->step != QL_INDEX_IDLE);
}

static struct found {
    uint64_t sequences[FOUND_MAX];
    unsigned count;
    unsigned requests;
} found;

/* First sequences of all batches from `from` on. */
static void
find(const char *subject, const char *key, uint64_t from)
{
    struct qlog_run runs[4];
    struct qlog_piece pieces[4];
    uint64_t at = from;
    found = (struct found){ .count = 0 };
    for (;;) {
        struct qlog_peek peek = {
            .pull = {
                .request = { .kind = QLOG_PEEK },
                .who = { .subject = q_bytes_from_text(subject) },
                .messages_max = 1000,
                .bytes_max = 1024 * 1024,
                .runs = runs,
                .runs_max = 4,
                .pieces = pieces,
                .pieces_max = 4,
            },
            .start = QLOG_START_SEQUENCE,
            .at = at,
            .key = q_bytes_from_text(key),
        };
        cr_assert_lt(found.requests++, 2000);
        cr_assert_eq(fixture_run(&fixture, &peek.pull.request), Q_OK);
        cr_assert_geq(peek.next, at);
        for (uint32_t i = 0; i < peek.pull.run_count; i++)
            for (uint32_t j = 0; j < runs[i].count; j += EACH) {
                cr_assert_lt(found.count, FOUND_MAX);
                found.sequences[found.count++] = runs[i].sequence + j;
            }
        qlog_pull_release(&peek.pull);
        if (peek.pull.waiting == 0) return;
        /* It is being read, or there is more to be looked at. */
        if (peek.next == at) cr_assert_eq(qlog_store_wait(fixture.store, Q_NS_PER_MS), Q_OK);
        at = peek.next;
    }
}

static void
check_found(unsigned batches, uint64_t from)
{
    unsigned at = 0;
    find(fixture_subject, "wanted", from);
    for (unsigned i = 0; i < batches; i += STRIDE) {
        if ((uint64_t)(i + 1) * EACH <= from) continue;
        cr_assert_lt(at, found.count, "%u were found", found.count);
        uint64_t first = q_max_u64(from, (uint64_t)i * EACH);
        cr_assert_eq(found.sequences[at], first, "%u: not %llu", at, (unsigned long long)first);
        at++;
    }
    cr_assert_eq(found.count, at);
}

Test(store_find, in_memory)
{
    fixture_close(&fixture);
    fixture.options.log.segment_bytes = 16 * 1024 * 1024;
    cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &fixture.store), Q_OK);
    publish_many(BATCHES);
    cr_assert_eq(fixture.store->index.files.count, 0);
    check_found(BATCHES, 0);
    check_found(BATCHES, STRIDE * EACH);
    check_found(BATCHES, STRIDE * EACH + 1);
    cr_assert_lt(found.requests, 10);
    find(fixture_subject, "nothing has it", 0);
    cr_assert_eq(found.count, 0);
    find("others", "wanted", 0);
    cr_assert_eq(found.count, BATCHES / 10);
}

Test(store_find, in_files)
{
    publish_many(BATCHES);
    settle_index();
    cr_assert_geq(fixture.store->index.files.count, 5);
    for (uint64_t from = 0; from < BATCHES * EACH; from += 97)
        check_found(BATCHES, from);
    find(fixture_subject, "nothing has it", 0);
    cr_assert_eq(found.count, 0);
    find("others", "wanted", 0);
    cr_assert_eq(found.count, BATCHES / 10);
    fixture_crash(&fixture);
    check_found(BATCHES, 0);
    publish_many(0);
    fixture_reopen(&fixture);
    check_found(BATCHES, 0);
}

/* One request looks at a few files at most, however many there are. */
Test(store_find, in_slices)
{
    publish(fixture_subject, "wanted");
    for (unsigned i = 0; i < 3 * BATCHES; i++)
        publish(fixture_subject, "");
    settle_index();
    cr_assert_gt(fixture.store->index.files.count, 16);
    find(fixture_subject, "wanted", 0);
    cr_assert_eq(found.count, 1);
    cr_assert_geq(found.requests, 3);
}

/* An index file that is damaged is made again, and what it should have told is told. */
Test(store_find, in_a_damaged_file)
{
    publish_many(BATCHES);
    settle_index();
    fixture_reopen(&fixture);
    struct ql_index_view *view = &fixture.store->index.files.files[1]->view;
    uint32_t number = fixture.store->index.files.files[1]->number;
    uint64_t size = view->layout.file_size;
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/message/index-%06u", fixture.directory, number);
    int file = open(path, O_RDWR);
    cr_assert_geq(file, 0);
    for (uint64_t at = 4096; at < size; at += 512)
        cr_assert_eq(pwrite(file, "damaged", 7, (off_t)at), 7);
    cr_assert_eq(close(file), 0);
    /* As if nobody had looked at it before. */
    memset(view->checked, 0, view->layout.page_count / 8 + 1);
    view->pages_checked = false;
    check_found(BATCHES, 0);
    cr_assert_geq(fixture.events[QLOG_EVENT_INDEX_DROPPED], 1);
}

/* What retention has dropped is not found, and not in the way. */
Test(store_find, what_is_left)
{
    publish_many(BATCHES);
    settle_index();
    struct qlog_trim trim = {
        .request = { .kind = QLOG_TRIM },
        .messages_before = { fixture.store->messages->segments.segments[2]->base },
    };
    cr_assert_eq(fixture_run(&fixture, &trim.request), Q_OK);
    find(fixture_subject, "wanted", 0);
    cr_assert_gt(found.count, 2);
    cr_assert_gt(found.sequences[0], 0);
    cr_assert_eq(found.sequences[0] % (STRIDE * EACH), 0);
    cr_assert_eq(found.sequences[found.count - 1], (BATCHES - 1) / STRIDE * STRIDE * EACH);
}
