/*
 * delay_harm.c: what may happen to schedule files between two lives of a delay store. They are derived:
 * whatever it is, no message may suffer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "delay_client.h"
#include "io/transfer.h"

static const char folder[] = "/delay/delay";

enum {
    NAMES_MAX = 64,
    NAME_SIZE = 32,
    BLOCK = 4096,
    HEAD = 512, /* of a block: where something stands most often */
};

struct names {
    char names[NAMES_MAX][NAME_SIZE];
    unsigned count;
};

static bool
list_name(void *context, const char *name)
{
    struct names *names = context;
    bool schedule = strncmp(name, "schedule-", 9) == 0 && strlen(name) < NAME_SIZE;
    if (schedule) (void)strcpy(names->names[names->count++], name);
    return names->count < NAMES_MAX;
}

static void
transfer(
    struct qlog_io *io, enum qlog_io_op_kind kind, int file, uint64_t at, void *data, uint64_t size)
{
    struct ql_transfer transfer = {
        .op = {
            .kind = kind,
            .durable = kind == QLOG_IO_WRITE,
            .file = file,
            .buffer = -1,
            .data = data,
            .at = at,
            .length = (uint32_t)size,
        },
    };
    int error = ql_transfer_wait(io, &transfer);
    Q_ASSERT(error == 0);
}

/* Be what was a schedule file some time ago, or become what one will be later. */
static void
harm_by_time(struct delay_client *client, struct qlog_io *io, int file, uint64_t size)
{
    if (client->old_file != NULL)
        transfer(io, QLOG_IO_WRITE, file, 0, client->old_file, client->old_size);
    free(client->old_file);
    client->old_file = NULL;
    if (random_below(&client->random, 2) == 0) return;
    client->old_file = malloc(size);
    client->old_size = size;
    Q_ASSERT(client->old_file != NULL);
    transfer(io, QLOG_IO_READ, file, 0, client->old_file, size);
}

void
delay_client_harm(struct delay_client *client)
{
    struct qlog_io *io = simdisk_raw_io(client->disk);
    struct names names = { .count = 0 };
    if (io->table->list(io, folder, list_name, &names) < 0 || names.count == 0) return;
    char path[128];
    (void)snprintf(
        path, sizeof(path), "%s/%s", folder,
        names.names[random_below(&client->random, names.count)]);
    if (random_below(&client->random, 4) == 0) {
        (void)io->table->unlink(io, path);
        return;
    }
    int file = io->table->open(io, path, 0);
    uint64_t size;
    Q_ASSERT(file >= 0 && io->table->size(io, file, &size) == 0);
    if (size >= BLOCK && random_below(&client->random, 2) == 0) {
        uint8_t block[BLOCK];
        uint64_t at = random_below(&client->random, (uint32_t)(size / BLOCK)) * (uint64_t)BLOCK;
        transfer(io, QLOG_IO_READ, file, at, block, BLOCK);
        block[random_below(&client->random, HEAD)] ^=
            (uint8_t)(1 << random_below(&client->random, 8));
        transfer(io, QLOG_IO_WRITE, file, at, block, BLOCK);
    } else if (size >= BLOCK) {
        harm_by_time(client, io, file, size);
    }
    io->table->close(io, file);
}
