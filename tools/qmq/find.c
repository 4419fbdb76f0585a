/*
 * find.c: qmq find: messages of a subject by key, by id, or by the time they were stored.
 *
 * Nothing is changed: it reads as `qmq sub --peek` does. A key is found by the broker's index. An id has
 * the time in it at which its message was made, so it is looked for from a little before.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <qbase/clock.h>
#include <qbatch/id.h>

#include "command.h"
#include "interrupt.h"
#include "show.h"
#include "when.h"

enum {
    BATCH = 512,
    CLOCKS_APART_MS = 60 * 1000, /* of who made a message and who stored it */
    EXIT_SIGNAL_BASE = 128,
};

struct find {
    struct qmq_client *client;
    struct qmq_reader_options wanted;
    bool by_id;
    bool by_time;
    struct qbatch_id id;
    uint64_t left;
    uint64_t found;
    enum show_format format;
};

struct texts {
    const char *key;
    const char *id;
    const char *at;
    const char *output;
};

static int read_options(
    struct find *find, const struct command *command, const struct texts *texts);
static int find_all(struct find *find);
static int show_batch(struct find *find, const struct qmq_batch *batch);
static int write_failed(struct find *find);

int
find_run(const struct command *command, int argc, char **argv)
{
    struct find find = { .left = 0 };
    struct texts texts = { .output = "text" };
    const char *meta = meta_default();
    const struct q_opt options[] = {
        { "key", 'k', Q_OPT_TEXT, &texts.key, "KEY", "messages with this key", 0, 0 },
        { "id", 0, Q_OPT_TEXT, &texts.id, "ID", "the message with this id", 0, 0 },
        { "at", 0, Q_OPT_TEXT, &texts.at, "TIME",
          "what was stored from then on: 2026-01-11T04:15Z, ms since 1970, or -5m", 0, 0 },
        { "count", 'n', Q_OPT_NUMBER, &find.left, "N", "end after N messages (all; --at: 1)", 1,
          0 },
        { "broker-group", 0, Q_OPT_TEXT, &find.wanted.broker_group, "NAME",
          "only what this broker group has", 0, 0 },
        { "output", 'o', Q_OPT_TEXT, &texts.output, "text|json",
          "json: one object per message, with all that is known of it", 0, 0 },
        META_OPTION(meta),
    };
    struct q_opts_result result;
    int exit_code;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 1, 1, argc, argv, &result,
            &exit_code))
        return exit_code;
    find.wanted.subject = result.args[0];
    exit_code = read_options(&find, command, &texts);
    if (exit_code != EXIT_OK) return exit_code;
    interrupt_block();
    find.client = connect_to(meta, &exit_code);
    if (!find.client) return exit_code;
    exit_code = find_all(&find);
    qmq_client_free(find.client);
    return exit_code;
}

static int
read_options(struct find *find, const struct command *command, const struct texts *texts)
{
    if (!texts->key && !texts->id && !texts->at)
        return usage_error(command, "what is to be found? --key, --id or --at");
    if (texts->id && texts->at) return usage_error(command, "--id knows its time: leave --at out");
    if (strcmp(texts->output, "text") != 0 && strcmp(texts->output, "json") != 0)
        return usage_error(command, "-o '%s': text or json", texts->output);
    find->format = strcmp(texts->output, "json") == 0 ? SHOW_JSON : SHOW_HUMAN;
    if (texts->key) find->wanted.key = (struct qmq_bytes){ texts->key, strlen(texts->key) };
    if (texts->key && *texts->key == '\0') return usage_error(command, "--key: it is empty");
    if (texts->at) {
        find->wanted.start = QMQ_START_TIME;
        if (when_parse(texts->at, q_clock_wall_ms(q_clock_system()), &find->wanted.start_at) !=
            Q_OK)
            return usage_error(command, "--at: %s", q_fault_last()->what);
        find->by_time = true;
        if (find->left == 0 && !texts->key) find->left = 1;
    }
    if (texts->id) {
        if (qbatch_id_parse(texts->id, &find->id) != Q_OK)
            return usage_error(command, "--id: '%s' is no id", texts->id);
        find->by_id = true;
        find->wanted.start = QMQ_START_TIME;
        find->wanted.start_at =
            find->id.time_ms > CLOCKS_APART_MS ? find->id.time_ms - CLOCKS_APART_MS : 0;
        find->left = 1;
    }
    if (find->left == 0) find->left = UINT64_MAX;
    return EXIT_OK;
}

static int
find_all(struct find *find)
{
    struct qmq_reader *reader;
    if (qmq_reader_new(find->client, &find->wanted, &reader) != QMQ_OK)
        return report_error("look into \"%s\"", find->wanted.subject);
    interrupt_here();
    int exit_code = EXIT_OK;
    while (exit_code == EXIT_OK && find->left > 0) {
        struct qmq_batch *batch;
        int code = qmq_read(reader, BATCH, &batch);
        if (code == QMQ_AGAIN) break;
        exit_code = code == QMQ_OK ? show_batch(find, batch)
                                   : report_error("look into \"%s\"", find->wanted.subject);
        if (code == QMQ_OK) qmq_batch_free(batch);
        if (interrupt_signal()) exit_code = EXIT_SIGNAL_BASE + interrupt_signal();
    }
    qmq_reader_free(reader);
    if (exit_code != EXIT_OK || find->found > 0) return exit_code;
    (void)fprintf(stderr, "qmq: no such message in \"%s\"\n", find->wanted.subject);
    return EXIT_NOT_FOUND;
}

static int
show_batch(struct find *find, const struct qmq_batch *batch)
{
    for (size_t index = 0; index < qmq_batch_count(batch) && find->left > 0; index++) {
        const struct qmq_message *message = qmq_batch_message(batch, index);
        const struct qmq_id *id = &message->id;
        if (find->by_id && (id->time_ms != find->id.time_ms || id->producer != find->id.producer ||
                            id->counter != find->id.counter))
            continue;
        /* An index file knows when its seconds begin: what comes first may be older. */
        if (find->by_time && message->stored_ms < find->wanted.start_at) continue;
        bool written = show_message(find->client, NULL, message, find->format);
        find->found++;
        find->left--;
        if (!written) return write_failed(find);
    }
    return fflush(stdout) == 0 ? EXIT_OK : write_failed(find);
}

static int
write_failed(struct find *find)
{
    /* A reader that has enough, like `head`. */
    find->left = 0;
    if (errno == EPIPE) return EXIT_OK;
    (void)Q_FAIL(q_err_from_errno(errno), .sys = errno, .path = "stdout");
    return report_error("write");
}
