/*
 * seeds_batch_open.c: inputs for fuzz_batch_open to begin with: seeds_batch_open DIRECTORY
 *
 * To be run again when the format changes, since the kept inputs are not understood then.
 */
#include <stdio.h>

#include <qbase/assert.h>

#include "../unit/batch_maker.h"

enum {
    BATCHES_MAX = 3
};

static void write_seed(const char *directory, unsigned number, unsigned batch_count, bool compress);
static void write_all(FILE *file, const void *data, size_t size);

int
main(int argc, char **argv)
{
    Q_ASSERT(argc == 2);
    unsigned number = 0;
    for (unsigned batch_count = 0; batch_count <= BATCHES_MAX; batch_count++) {
        for (int compress = 0; compress < 2; compress++)
            write_seed(argv[1], number++, batch_count, compress);
    }
    return 0;
}

static void
write_seed(const char *directory, unsigned number, unsigned batch_count, bool compress)
{
    struct made_batch batches[BATCHES_MAX];
    uint32_t envelopes_size = 0;
    for (unsigned i = 0; i < batch_count; i++) {
        batches[i] = make_random_batch(number * 10 + i, 1 + i * 2, compress);
        envelopes_size += batches[i].envelope_size;
    }

    FILE *file = fopen(q_text("%s/seed-%u", directory, number), "wbe");
    Q_ASSERT(file != NULL);
    uint8_t head[4];
    q_store_le32(head, envelopes_size);
    write_all(file, head, sizeof(head));
    for (unsigned i = 0; i < batch_count; i++)
        write_all(file, batches[i].envelope, batches[i].envelope_size);
    for (unsigned i = 0; i < batch_count; i++) {
        write_all(file, batches[i].payload, batches[i].payload_size);
        made_batch_free(&batches[i]);
    }
    Q_ASSERT(fclose(file) == 0);
}

static void
write_all(FILE *file, const void *data, size_t size)
{
    Q_ASSERT(fwrite(data, 1, size, file) == size);
}
