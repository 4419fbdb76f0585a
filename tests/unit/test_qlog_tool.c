/*
 * `qlog` as a user runs it: what it prints, how it exits, and that it changes nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <criterion/criterion.h>

#include <qlog/log.h>

#include "delay/delay.h"
#include "store/store.h"
#include "store_fixture.h"

static struct store_fixture fixture;
static char output[64 * 1024]; /* of the last run, stdout and stderr */

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

TestSuite(qlog_tool, .init = setup, .fini = teardown, .timeout = 120);

/* Exit code of a shell command. */
static int
shell(const char *command)
{
    FILE *pipe = popen(command, "re");
    cr_assert_not_null(pipe);
    size_t size = fread(output, 1, sizeof(output) - 1, pipe);
    output[size] = '\0';
    int status = pclose(pipe);
    cr_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int
qlog(const char *command, const char *arguments)
{
    char line[1024];
    (void)snprintf(
        line, sizeof(line), "'%s' %s '%s' %s 2>&1", QLOG_PROGRAM, command, fixture.directory,
        arguments);
    return shell(line);
}

/* Without what is said on stderr. */
static int
qlog_data(const char *command, const char *arguments)
{
    char line[1024];
    (void)snprintf(
        line, sizeof(line), "'%s' %s '%s' %s 2>/dev/null", QLOG_PROGRAM, command, fixture.directory,
        arguments);
    return shell(line);
}

static void
assert_says(const char *text)
{
    cr_assert_not_null(strstr(output, text), "no \"%s\" in:\n%s", text, output);
}

static void
publish_and_consume(void)
{
    cr_assert_eq(fixture_publish(&fixture, fixture_subject, "a,b,c", NULL, NULL), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "other", "x", NULL, NULL), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, fixture_subject, "d", NULL, NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c1", NULL);
    struct pulled pulled = fixture_pull(&fixture, "g", "c1", session, 100, 0);
    uint64_t first = pulled.runs[0].pull_sequence;
    cr_assert_eq(fixture_ack(&fixture, "g", "c1", session, first, first + 1), Q_OK);
}

static void
close_clean(void)
{
    cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    fixture.store = NULL;
}

/* As kill -9 would leave it. */
static void
close_as_killed(void)
{
    fixture.store->home->env.broken = Q_E_BROKEN;
    cr_assert_eq(qlog_store_close(fixture.store), Q_E_BROKEN);
    fixture.store = NULL;
}

/* Bytes over the first segment of the message log. */
static void
overwrite(uint64_t at, const char *bytes)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/message/segment-000000", fixture.directory);
    FILE *file = fopen(path, "r+be");
    cr_assert_not_null(file);
    cr_assert_eq(fseek(file, (long)(4096 + at), SEEK_SET), 0);
    cr_assert_eq(fwrite(bytes, 1, strlen(bytes), file), strlen(bytes));
    cr_assert_eq(fclose(file), 0);
}

Test(qlog_tool, dumps_every_log_and_view)
{
    publish_and_consume();
    close_clean();
    cr_assert_eq(qlog("dump", ""), 0);
    assert_says("BATCH    subject=0 sequence=0 messages=3");
    cr_assert_eq(qlog("dump", "--log action"), 0);
    assert_says("ACK      group=0 consumer=0");
    cr_assert_eq(qlog("dump", "--log consume"), 0);
    assert_says("orders  0-2  at 0:");
    assert_says("other  0-0  at ");
    assert_says("orders  3-3  at ");
    cr_assert_eq(qlog("dump", "--log pull"), 0);
    assert_says("orders g c1  ");
    assert_says("  is 0-3  attempt 1");
    cr_assert_eq(qlog("dump", "--log consume -o json"), 0);
    assert_says("{\"subject\":\"orders\",\"first\":3,\"last\":3,\"position\":");
    cr_assert_eq(qlog("dump", "--log pull -o json"), 0);
    assert_says("\"group\":\"g\",\"consumer\":\"c1\",\"first_pull\":");
}

/* Each line of JSON is an object of its own, and a JSON parser agrees. */
Test(qlog_tool, json_parses)
{
    publish_and_consume();
    close_clean();
    const char *const logs[] = { "message", "action", "consume", "pull" };
    for (size_t i = 0; i < sizeof(logs) / sizeof(logs[0]); i++) {
        char command[1024];
        (void)snprintf(
            command, sizeof(command),
            "'%s' dump '%s' --log %s -o json | "
            "python3 -c 'import json, sys; print(len([json.loads(line) for line in sys.stdin]))'",
            QLOG_PROGRAM, fixture.directory, logs[i]);
        cr_assert_eq(shell(command), 0);
        cr_assert_gt(atoi(output), 0, "%s: %s", logs[i], output);
    }
    cr_assert_eq(qlog("verify", "-o json | python3 -m json.tool"), 0);
    assert_says("\"result\": \"ok\"");
}

Test(qlog_tool, a_clean_store_is_ok)
{
    publish_and_consume();
    close_clean();
    cr_assert_eq(qlog("verify", "--deep"), 0);
    assert_says("result: ok");
}

Test(qlog_tool, a_running_store_is_looked_at_up_to_its_mark)
{
    publish_and_consume();
    cr_assert_eq(qlog("verify", ""), 0);
    assert_says("in use by another process");
    cr_assert_eq(qlog("dump", ""), 0);
    assert_says("in use");
}

Test(qlog_tool, a_torn_tail_is_7_until_the_next_start)
{
    publish_and_consume();
    uint64_t end = fixture.store->messages->tail;
    close_as_killed();
    cr_assert_eq(qlog("verify", ""), 0, "nothing was under way: %s", output);
    overwrite(end, "half a frame");
    cr_assert_eq(qlog("verify", ""), 7, "%s", output);
    assert_says("torn tail: 4096 bytes");
    cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &fixture.store), Q_OK);
    close_clean();
    cr_assert_eq(qlog("verify", ""), 0, "%s", output);
}

Test(qlog_tool, damage_is_8_and_nothing_is_changed)
{
    publish_and_consume();
    close_clean();
    overwrite(4096 + 200, "rot");
    char sum[1024];
    (void)snprintf(
        sum, sizeof(sum), "cd '%s' && find . -type f -printf '%%p %%T@ ' -exec sha256sum {} +",
        fixture.directory);
    char before[sizeof(output)];
    cr_assert_eq(shell(sum), 0);
    memcpy(before, output, sizeof(before));

    cr_assert_eq(qlog("verify", "--deep"), 8, "%s", output);
    assert_says("positions 4096 to 8192");
    cr_assert_eq(qlog("dump", ""), 8);
    assert_says("damage: ");
    assert_says("BATCH    subject=0 sequence=3");
    cr_assert_eq(shell(sum), 0);
    cr_assert_str_eq(output, before);
}

/* Until the message log has rolled; the first messages are held by a group. */
static void
fill_segments(void)
{
    static char bodies[3000];
    memset(bodies, 'x', sizeof(bodies) - 1);
    uint64_t first = fixture.store->messages->segments.segments[0]->base;
    for (unsigned i = 0; fixture.store->messages->segments.count < 3 && i < 1000; i++)
        cr_assert_eq(fixture_publish(&fixture, fixture_subject, bodies, NULL, NULL), Q_OK);
    cr_assert_eq(fixture.store->messages->segments.count, 3);
    cr_assert_eq(fixture.store->messages->segments.segments[0]->base, first);
}

Test(qlog_tool, gc_drops_what_nothing_holds)
{
    uint64_t session = fixture_join(&fixture, "g", "c1", NULL);
    fill_segments();
    close_clean();

    /* Time alone: the fixture's clock stands at 2023. */
    cr_assert_eq(qlog("gc", ""), 0);
    assert_says("may go");
    assert_says("stays: it is being written");
    cr_assert_eq(qlog("gc", "--older-than 36500d"), 0);
    assert_says("stays: it has records of 2023-11-14");
    cr_assert_eq(qlog("gc", "--keep 1GiB"), 0);
    assert_says("stays: the log behind it has only ");
    assert_says("may go: 0 B");

    /* A group that has not consumed holds everything from its first message on. */
    cr_assert_eq(qlog("gc", "--consumed"), 0);
    assert_says("stays: group \"g\" is not done with \"orders\" from sequence 0 on");
    cr_assert_eq(qlog("gc", "--consumed --apply"), 0);
    assert_says("dropped: 0 B");
    cr_assert_eq(qlog("cat", "orders --to 0 --raw | wc -c"), 0);
    assert_says("2999");

    cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &fixture.store), Q_OK);
    uint64_t limit = fixture.store->messages->segments.segments[1]->base;
    /* More messages than the first segment has room for. */
    for (unsigned i = 0; i < limit / 3000; i++) {
        struct pulled pulled = fixture_pull(&fixture, "g", "c1", session, 1, 0);
        cr_assert_eq(pulled.run_count, 1);
        uint64_t got = pulled.runs[0].pull_sequence;
        cr_assert_eq(fixture_ack(&fixture, "g", "c1", session, got, got), Q_OK);
    }
    close_clean();
    cr_assert_eq(qlog("gc", "--consumed --apply -o json | python3 -m json.tool"), 0);
    assert_says("\"applied\": true");
    assert_says("\"goes\": true");
    cr_assert_eq(qlog("verify", "--deep"), 0, "%s", output);
    cr_assert_eq(qlog("ls", ""), 0);
    assert_says("orders");
    cr_assert_eq(qlog("cat", "orders --to 0 | wc -c"), 0);
    assert_says("0\n");
}

/* Each segment is there with its index file, or with what is the matter with it. */
Test(qlog_tool, index_tells_what_files_have)
{
    q_clock_manual_advance_ns(&fixture.clock, Q_NS_PER_S);
    fill_segments();
    /* The action log, which names the subject, is flushed first. */
    q_clock_manual_advance_ns(&fixture.clock, Q_NS_PER_S);
    while (fixture.store->index.files.count == 0)
        fixture_settle(&fixture);
    cr_assert_eq(qlog("index", ""), 0, "%s", output);
    assert_says("whole");
    const struct ql_index_file *file = fixture.store->index.files.files[0];
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/message/index-%06u", fixture.directory, file->number);
    close_clean();
    FILE *handle = fopen(path, "r+b");
    cr_assert_not_null(handle);
    (void)fseek(handle, QL_INDEX_HEADER_SIZE + 17, SEEK_SET);
    (void)fwrite("damage", 1, 6, handle);
    (void)fclose(handle);
    cr_assert_eq(qlog("index", ""), 8);
    assert_says("damaged");
    cr_assert_eq(remove(path), 0);
    cr_assert_eq(qlog("index", "-o json | python3 -m json.tool"), 0);
    assert_says("\"state\": \"missing\"");
    assert_says("\"state\": \"whole\"");
    assert_says("\"batches\": ");
}

/* What index files tell is what reading the log tells; that there are none is said. */
Test(qlog_tool, index_or_none_is_the_same)
{
    static const char *const commands[][2] = {
        { "ls", "" },
        { "gc", "--consumed --older-than 0s" },
        { "cat", "orders --from 5 --to 25" },
        { "cat", "other --since 0" },
        { "grep", ". -s other -c" },
        { "grep", ". --since 2000-01-01T00:00:00Z -c" },
        { "grep", ". --key alpha" },
        { "grep", ". --key alpha -s other" },
        { "track", "other@0" },
    };
    enum {
        COMMANDS = sizeof(commands) / sizeof(commands[0])
    };
    char *before[COMMANDS];
    (void)snprintf(fixture.key, sizeof(fixture.key), "alpha");
    publish_and_consume();
    (void)snprintf(fixture.key, sizeof(fixture.key), "beta");
    fill_segments();
    (void)snprintf(fixture.key, sizeof(fixture.key), "alpha");
    publish_and_consume();
    const struct ql_index_files *files = &fixture.store->index.files;
    while (files->cut_count > 0 || files->step != QL_INDEX_IDLE) {
        q_clock_manual_advance_ns(&fixture.clock, Q_NS_PER_S);
        fixture_settle(&fixture);
    }
    close_clean();
    for (size_t i = 0; i < COMMANDS; i++) {
        cr_assert_eq(qlog_data(commands[i][0], commands[i][1]), 0, "%s", commands[i][0]);
        before[i] = strdup(output);
        cr_assert_not_null(before[i]);
        cr_assert_gt(strlen(output), 0, "%s", commands[i][0]);
    }
    cr_assert_eq(qlog("ls", ""), 0);
    cr_assert_null(strstr(output, "no good index file"));
    char command[1024];
    (void)snprintf(command, sizeof(command), "rm '%s'/message/index-*", fixture.directory);
    cr_assert_eq(shell(command), 0);
    for (size_t i = 0; i < COMMANDS; i++) {
        cr_assert_eq(qlog_data(commands[i][0], commands[i][1]), 0, "%s", commands[i][0]);
        cr_assert_str_eq(output, before[i], "%s was\n%s", output, before[i]);
        free(before[i]);
    }
    cr_assert_eq(qlog("ls", ""), 0);
    assert_says("segments have no good index file, and were read");
    cr_assert_eq(qlog("cat", "other"), 0);
    assert_says("segments have no good index file, and are read");
}

/* By its id alone. */
Test(qlog_tool, a_message_is_found_by_its_id)
{
    char id[64];
    for (unsigned i = 0; i < 2; i++) {
        fixture.counter = 7 + i;
        cr_assert_eq(
            fixture_publish(&fixture, "other", i == 0 ? "first" : "second", NULL, NULL), Q_OK);
        q_clock_manual_advance_ns(&fixture.clock, (uint64_t)3600 * Q_NS_PER_S);
    }
    close_clean();
    cr_assert_eq(qlog_data("grep", "first"), 0);
    cr_assert_eq(sscanf(output, "%*s %*s %63s", id), 1, "%s", output);
    char arguments[128];
    (void)snprintf(arguments, sizeof(arguments), ". --id %s", id);
    cr_assert_eq(qlog_data("grep", arguments), 0);
    assert_says("other@0");
    cr_assert_null(strstr(output, "other@1"));
    /* Made later than anything was stored, as it says: it might lie before that. */
    id[11] = '5';
    (void)snprintf(arguments, sizeof(arguments), ". --id %s", id);
    cr_assert_eq(qlog_data("grep", arguments), 3);
    cr_assert_eq(qlog("grep", ". --id nonsense"), 2);
    assert_says("'nonsense' is no id of a message");
}

Test(qlog_tool, gc_does_not_touch_a_running_store)
{
    fill_segments();
    cr_assert_eq(qlog("gc", ""), 0);
    assert_says("may go");
    cr_assert_eq(qlog("gc", "--apply"), 10);
    assert_says("another process has the directory open");
    cr_assert_eq(qlog("repair", "--apply"), 10);
}

/* The same of a disk with a bad block: the second frame. */
static int
qlog_on_a_bad_disk(const char *arguments)
{
    char line[2048];
    (void)snprintf(
        line, sizeof(line),
        "BAD_DISK=message/segment-000000:8192:12288 ASAN_OPTIONS=verify_asan_link_order=0 "
        "LD_PRELOAD='%s' '%s' repair '%s' %s 2>&1",
        BAD_DISK_MODULE, QLOG_PROGRAM, fixture.directory, arguments);
    return shell(line);
}

Test(qlog_tool, what_can_not_be_read_is_given_up_by_hand)
{
    publish_and_consume();
    close_clean();
    cr_assert_eq(qlog("repair", "--give-up"), 0, "%s", output);
    assert_says("there is nothing to repair");

    cr_assert_eq(qlog_on_a_bad_disk("--give-up"), 8, "%s", output);
    assert_says("give up");
    assert_says("does not give bytes 8192 to 12288");
    assert_says("nothing was changed");
    cr_assert_eq(qlog("verify", "--deep"), 0, "%s", output);

    cr_assert_eq(qlog_on_a_bad_disk("--give-up --apply"), 8, "%s", output);
    assert_says("done");
    assert_says("can't repair");
    assert_says("positions 4096 to 8192: it stays as it is, and is never served");
    cr_assert_eq(
        qlog_on_a_bad_disk("--give-up -o json"), 8, "the disk of this process is as bad as ever");
    assert_says("\"step\":\"give up\"");
    cr_assert_eq(qlog("repair", "--give-up --apply"), 8, "%s", output);
    assert_says("there is nothing that a repair can do");

    /* The subject of what is gone, and the one around it, go on. */
    cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &fixture.store), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "other", "y", NULL, NULL), Q_OK);
    uint64_t first;
    cr_assert_eq(fixture_publish(&fixture, fixture_subject, "e", NULL, &first), Q_OK);
    cr_expect_eq(first, 4);
    fixture_reopen(&fixture);
    close_clean();
    cr_assert_eq(qlog("verify", "--deep"), 8, "%s", output);
}

Test(qlog_tool, a_delay_store_is_repaired)
{
    close_clean();
    char command[1024];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", fixture.directory);
    cr_assert_eq(shell(command), 0);
    struct qlog_delay *delay;
    const struct qlog_delay_options options = {
        .log = { .segment_bytes = 256 * 1024, .create = true },
    };
    cr_assert_eq(qlog_delay_open(fixture.directory, &options, &delay), Q_OK);
    delay->home->env.broken = Q_E_BROKEN;
    cr_assert_eq(qlog_delay_close(delay), Q_E_BROKEN);
    cr_assert_eq(qlog("repair", "--give-up --apply"), 0, "%s", output);
    assert_says("done");
    cr_assert_eq(qlog("repair", ""), 0, "%s", output);
    assert_says("there is nothing to repair");
}

Test(qlog_tool, a_log_of_a_program_has_no_subjects)
{
    close_clean();
    char command[1024];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", fixture.directory);
    cr_assert_eq(shell(command), 0);
    struct qlog *log;
    struct qlog_options options = { .segment_bytes = 256 * 1024, .create = true };
    cr_assert_eq(qlog_open(fixture.directory, &options, &log), Q_OK);
    cr_assert_eq(qlog_append(log, "hello", 5, NULL), Q_OK);
    cr_assert_eq(qlog_close(log), Q_OK);
    cr_assert_eq(qlog("info", ""), 0);
    assert_says("log/segment-000000");
    cr_assert_eq(qlog("ls", "--files"), 0);
    cr_assert_eq(qlog("verify", "--deep -j 2"), 0);
    cr_assert_eq(qlog("gc", ""), 0);
    cr_assert_eq(qlog("repair", ""), 0);
    assert_says("there is nothing to repair");
    static const char *const of_stores[] = { "ls", "stat", "cat", "grep" };
    for (size_t i = 0; i < sizeof(of_stores) / sizeof(of_stores[0]); i++) {
        cr_assert_eq(qlog(of_stores[i], i < 2 ? "" : "x"), 3, "%s", of_stores[i]);
        assert_says("  try: ");
        assert_says("qlog ");
    }
    cr_assert_eq(qlog("gc", "--consumed"), 2);
}

Test(qlog_tool, mistakes_have_their_own_codes)
{
    close_clean();
    cr_assert_eq(qlog("dump", "--log mesage"), 3);
    assert_says("message action");
    cr_assert_eq(qlog("dump", "--lgo message"), 2);
    assert_says("did you mean --log");
    cr_assert_eq(qlog("verify", "-o xml"), 2);
    cr_assert_eq(qlog("vrify", ""), 2);
    assert_says("did you mean: qlog verify");
    cr_assert_eq(shell("'" QLOG_PROGRAM "' verify /nonexistent 2>&1"), 3);
    cr_assert_eq(shell("'" QLOG_PROGRAM "' verify / 2>&1"), 1);
    cr_assert_eq(shell("'" QLOG_PROGRAM "' verify /dev/null 2>&1"), 1);
    cr_assert_eq(shell("'" QLOG_PROGRAM "' verify /nonexistent -o json 2>/dev/null"), 3);
    assert_says("{\"error\":{\"code\":3,\"name\":\"NOT_FOUND\"");
}
