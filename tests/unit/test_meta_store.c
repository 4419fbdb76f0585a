/*
 * test_meta_store.c: the five calls that everything in meta goes through, over SQLite.
 */
#include <meta/store.h>

#include <errno.h>
#include <sys/stat.h>

#include "test_servers_common.h"

static struct q_clock_manual manual;
static struct meta_store *store;

static void
open_store(void)
{
    cr_assert_eq(meta_sqlite_open(test_path("meta.db"), &manual.clock, &store), Q_OK);
}

static void
set_up(void)
{
    test_directory_make();
    q_clock_manual_init(&manual);
    open_store();
}

static void
tear_down(void)
{
    meta_close(store);
    test_directory_remove();
}

TestSuite(meta_store, .init = set_up, .fini = tear_down);

static uint64_t
set(const char *key, uint64_t expected_version, const char *value)
{
    uint64_t version = 0;
    enum q_err err =
        meta_compare_and_set(store, key, expected_version, q_bytes_from_text(value), &version);
    cr_assert_eq(err, Q_OK);
    return version;
}

static bool
has(const char *key, const char *value)
{
    struct q_bytes found;
    uint64_t version;
    enum q_err err = meta_get(store, key, &found, &version);
    return err == Q_OK && q_bytes_equal(found, q_bytes_from_text(value));
}

/* What was set is got, with the version that setting gave; what was not set is not found. */
Test(meta_store, get_gives_what_was_set)
{
    uint64_t version = set("a", 0, "one");
    struct q_bytes value;
    uint64_t found_version;
    cr_assert_eq(meta_get(store, "a", &value, &found_version), Q_OK);
    cr_expect(q_bytes_equal(value, q_bytes_from_text("one")));
    cr_expect_eq(found_version, version);
    cr_expect_eq(meta_get(store, "b", &value, &found_version), Q_NOT_FOUND);

    set("empty", 0, "");
    cr_expect(has("empty", ""));
}

/* A value changes only for who knows its version: 0 for none, and never an older one. */
Test(meta_store, compare_and_set_refuses_another_version)
{
    uint64_t first = set("a", 0, "one");
    uint64_t version = 99;
    struct q_bytes two = q_bytes_from_text("two");
    cr_expect_eq(meta_compare_and_set(store, "a", 0, two, &version), Q_CONFLICT);
    cr_expect_eq(meta_compare_and_set(store, "b", first, two, &version), Q_CONFLICT);
    cr_expect_eq(version, 99);
    cr_expect(has("a", "one"));

    uint64_t second = set("a", first, "two");
    cr_expect_gt(second, first);
    cr_expect_eq(meta_compare_and_set(store, "a", first, two, &version), Q_CONFLICT);
    cr_expect(has("a", "two"));
}

/* Values and versions outlive the process; versions go on from where they were. */
Test(meta_store, values_outlive_a_restart)
{
    uint64_t version = set("a", 0, "one");
    meta_close(store);
    open_store();
    cr_expect(has("a", "one"));
    cr_expect_gt(set("a", version, "two"), version);
}

struct listing {
    char text[200];
    int left;
};

static bool
list_one(void *context, const char *key, struct q_bytes value, uint64_t version)
{
    struct listing *listing = context;
    cr_expect_gt(version, 0);
    size_t at = strlen(listing->text);
    (void)snprintf(
        listing->text + at, sizeof(listing->text) - at, "%s=%.*s ", key, (int)value.size,
        (const char *)value.data);
    return --listing->left > 0;
}

/* A listing has the keys with the prefix and no others, in order, until it is told to end. */
Test(meta_store, list_has_the_prefix_in_order)
{
    set("nodes/b", 0, "2");
    set("nodes/a", 0, "1");
    set("nodes0", 0, "no");
    set("node", 0, "no");
    set("subjects/a", 0, "no");
    set("nodes/~", 0, "3");

    struct listing all = { .left = 100 };
    cr_assert_eq(meta_list(store, "nodes/", list_one, &all), Q_OK);
    cr_expect_str_eq(all.text, "nodes/a=1 nodes/b=2 nodes/~=3 ");
    struct listing one = { .left = 1 };
    cr_assert_eq(meta_list(store, "nodes/", list_one, &one), Q_OK);
    cr_expect_str_eq(one.text, "nodes/a=1 ");
}

static void
note(void *context, enum meta_change change, const char *key, struct q_bytes value)
{
    static const char *const names[] = { "set", "alive", "expired" };
    char *text = context;
    size_t at = strlen(text);
    (void)snprintf(
        text + at, 200 - at, "%s %s%s%.*s; ", names[change], key, value.size ? " " : "",
        (int)value.size, (const char *)value.data);
}

/* A watcher is told of each change below its prefix, once it has happened. */
Test(meta_store, watch_tells_changes)
{
    char text[200] = "";
    cr_assert_eq(meta_watch(store, "nodes/", note, text), Q_OK);
    uint64_t version = set("nodes/a", 0, "1");
    set("subjects/a", 0, "1");
    set("nodes/a", version, "2");
    uint64_t ignored;
    cr_expect_eq(
        meta_compare_and_set(store, "nodes/a", version, q_bytes_from_text("3"), &ignored),
        Q_CONFLICT);
    cr_expect_str_eq(text, "set nodes/a 1; set nodes/a 2; ");
}

/* A lease runs out when it is not renewed in time, is told once, and can begin again. */
Test(meta_store, lease_runs_out)
{
    char text[200] = "";
    cr_assert_eq(meta_watch(store, "nodes/", note, text), Q_OK);
    cr_assert_eq(meta_lease(store, "nodes/a", 10), Q_OK);
    cr_assert_eq(meta_lease(store, "nodes/b", 30), Q_OK);
    cr_expect_str_eq(text, "alive nodes/a; alive nodes/b; ");

    text[0] = '\0';
    q_clock_manual_advance_ns(&manual, 8);
    uint64_t now_ns = q_clock_monotonic_ns(&manual.clock);
    cr_assert_eq(meta_lease(store, "nodes/a", 10), Q_OK);
    cr_expect_eq(meta_turn(store), now_ns + 10);
    q_clock_manual_advance_ns(&manual, 9);
    meta_turn(store);
    cr_expect_str_eq(text, "");

    q_clock_manual_advance_ns(&manual, 1);
    cr_expect_eq(meta_turn(store), now_ns + 22);
    meta_turn(store);
    cr_expect_str_eq(text, "expired nodes/a; ");

    cr_assert_eq(meta_lease(store, "nodes/a", 100), Q_OK);
    cr_expect_str_eq(text, "expired nodes/a; alive nodes/a; ");
    q_clock_manual_advance_ns(&manual, 1000);
    cr_expect_eq(meta_turn(store), UINT64_MAX);
}

static enum q_err
open_other(const char *name)
{
    struct meta_store *other = NULL;
    enum q_err err = meta_sqlite_open(test_path(name), &manual.clock, &other);
    meta_close(other);
    return err;
}

static void
write_file(const char *name, const char *text)
{
    FILE *file = fopen(test_path(name), "w");
    cr_assert_not_null(file);
    cr_assert_geq(fputs(text, file), 0);
    cr_assert_eq(fclose(file), 0);
}

/* What is not meta's database is refused by name, and left as it was. */
Test(meta_store, strangers_are_refused)
{
    write_file(
        "text", "not a database at all, but long enough to be looked at by SQLite, which "
                "reads the first hundred bytes of what it opens to see what it has.");
    cr_expect_eq(open_other("text"), Q_E_FOREIGN);
    cr_expect(strstr(q_fault_last()->path, "/text"));

    cr_assert_eq(mkdir(test_path("directory"), 0755), 0);
    cr_expect_eq(open_other("directory"), Q_E_IO);
    cr_expect_eq(q_fault_last()->sys_errno, EISDIR);

    /* The first one still has it. */
    cr_expect_eq(open_other("meta.db"), Q_E_LOCKED);
    cr_expect_eq(open_other("missing/meta.db"), Q_E_IO);
}
