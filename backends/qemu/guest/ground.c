/*
 * ground: the guest program that knows the ground truth.
 *
 * It writes pages at a known rate in a known pattern, keeps a record of every write, and can say at
 * any time whether its memory is what it wrote.  Times are guest times (CLOCK_MONOTONIC stands
 * still while the guest is stopped), so a pause is never followed by a burst.  One thread, one loop.
 *
 *   ground [KEY=VALUE[,KEY=VALUE ...]] ...
 *
 *   pages=2000      size of the working set (4096 bytes each)
 *   rate=5000       writes a second; 0: none
 *   pattern=uniform uniform, zipf or sequential
 *   exponent=1      of zipf: the page of rank i is chosen with a chance proportional to i^-exponent
 *   seed=1          the k-th write is a function of seed and k
 *   fill=4032       bytes that a write changes, besides 64 of the page's own header
 *   vm=NAME         shown in stats
 *   serial=PATH     terminal with the line protocol
 *   port=5000       line protocol; the stream is on the port after it; 0: no TCP at all
 *   echo=7          echo of bytes; 0: none
 *
 * Line protocol, one command a line, one line of answer ("error: ..." for what cannot be done):
 *
 *   ping                       pong
 *   echo TEXT                  TEXT
 *   stats                      one JSON object
 *   mark                       "ok ..."; stats count `distinct` and `marked_touches` from here
 *   verify                     "ok pages=W generation=G" or "bad page=I why=WHY"
 *   set rate=N pattern=P ...   "ok": rate, pattern and exponent, from now on
 *   work us=N bytes=N touch=N diverge=P id=TEXT
 *                              uses N microseconds of CPU time, writes to N pages and answers with
 *                              a text of N bytes that depends on id alone; with chance P (decided
 *                              by id) its last 16 bytes differ between two guests
 *   corrupt page=I             "ok": flips one bit behind the record's back; verify must find it
 *   end how=off                the guest switches itself off; or how=reboot, how=panic: no answer
 *   disk PATH                  "ok": writes the first page of a disk; waits until it is there
 *   store client=C number=N    "stored S CHECK" once record S, which names both, is on the disk
 *
 * Stream: "get N" answers N bytes, word j (little endian) being mix(j).
 *
 * Memory.  The header page starts with a magic that exists nowhere else in the guest (the program's
 * file holds it masked), then words: generation, touches, pages, seed, fill, check.  Generation
 * counts batches of writes and is written last.  Each page: tag, index, touch, generation, check,
 * then, from byte 64, words base(index, touch) + j * STEP.  The record holds each page's last touch,
 * so a page that is intact but old (a lost update) is found as well as a damaged one.
 *
 * Records.  The file /disk/records grows by 512 bytes at a time, each write on the disk before the
 * next begins (O_DSYNC).  A record is words (little endian): tag, sequence, client, number, then
 * base(sequence, client, number) + j * STEP, and at its end the check, mixed from all before it.
 * The sequence counts from 1 and is the record's place in the file.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum {
    PAGE_BYTES = 4096,
    PAGE_WORDS = PAGE_BYTES / 8,
    HEADER_WORDS = 8,
    TICK_NS = 2000000,
    CATCH_UP_NS = 100000000,
    MOST_CONNECTIONS = 128,
    LONGEST_LINE = 8192,
    CHUNK_BYTES = 65536,
    MOST_PENDING_BYTES = 262144, /* a client that does not read is not read from */
    DIVERGING_BYTES = 16,
    RECORD_WORDS = 64,
};

static const uint64_t TAG = 0x45474150444e5247ULL; /* "GRNDPAGE" */
static const uint64_t RECORD_TAG = 0x4443455244524e47ULL; /* "GNRDRECD" */
static const char *const RECORDS = "/disk/records";
static const uint64_t STEP = 0x9e3779b97f4a7c15ULL;
static const uint8_t MASKED_MAGIC[16] = { /* "COLOSIMGROUND1\0\0", each byte with 0x5a */
    0x19, 0x15, 0x16, 0x15, 0x09, 0x13, 0x17, 0x1d, 0x08, 0x15, 0x0f, 0x14, 0x1e, 0x6b, 0x5a, 0x5a,
};

struct page {
    uint64_t tag, index, touch, generation, check, spare[3];
    uint64_t fill[PAGE_WORDS - HEADER_WORDS];
};

struct header {
    uint8_t magic[16];
    uint64_t generation, touches, pages, seed, fill_bytes, check;
};

enum pattern { UNIFORM, ZIPF, SEQUENTIAL };
static const char *const PATTERNS[] = { "uniform", "zipf", "sequential" };

static struct settings {
    uint64_t pages, seed, fill_bytes, port, echo_port;
    double rate, exponent;
    enum pattern pattern;
    char vm[64], serial[128];
} is = {
    .pages = 2000, .seed = 1, .fill_bytes = PAGE_BYTES - 8 * HEADER_WORDS,
    .port = 5000, .echo_port = 7, .rate = 5000.0, .exponent = 1.0, .pattern = UNIFORM,
};

static volatile struct header *head;
static struct page *pages;
static uint64_t *last_touch; /* the record: which write was each page's last */
static double *zipf_ends;    /* cumulated chances */
static uint64_t fill_words;
static uint64_t touches, generation, skipped, requests;
static uint64_t marked_touch, marked_ns;
static uint64_t paced_from_ns, paced, next_batch_ns;

/* --- numbers -------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x) /* splitmix64 */
{
    x += STEP;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

static double unit(uint64_t x) /* [0, 1) */
{
    return (double)(x >> 11) * 0x1p-53;
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

/* --- pages ---------------------------------------------------------------------------------- */

static uint64_t base(uint64_t index, uint64_t touch)
{
    return mix(is.seed ^ mix(index * STEP + mix(touch)));
}

static uint64_t page_check(const struct page *p)
{
    return mix(p->tag ^ mix(p->index ^ mix(p->touch ^ mix(p->generation ^ is.seed))));
}

static void fill_page(struct page *p, uint64_t first, uint64_t end, uint64_t start)
{
    uint64_t value = start + first * STEP;
    for (uint64_t j = first; j < end; j++, value += STEP)
        p->fill[j] = value;
}

static void write_page(uint64_t index, uint64_t touch)
{
    struct page *p = &pages[index];
    fill_page(p, 0, fill_words, base(index, touch));
    p->tag = TAG;
    p->index = index;
    p->touch = touch;
    p->generation = generation;
    p->check = page_check(p);
    last_touch[index] = touch;
}

static const char *wrong(uint64_t index)
{
    const struct page *p = &pages[index];
    if (p->tag != TAG || p->index != index || p->check != page_check(p))
        return "header";
    if (p->touch != last_touch[index])
        return p->touch < last_touch[index] ? "old" : "new";
    if (p->generation > generation)
        return "generation";
    uint64_t end = PAGE_WORDS - HEADER_WORDS;
    uint64_t value = base(index, p->touch);
    for (uint64_t j = 0; j < end; j++, value += STEP) {
        if (j == fill_words)
            value = base(index, 0) + j * STEP;
        if (p->fill[j] != value)
            return "fill";
    }
    for (int i = 0; i < 3; i++)
        if (p->spare[i])
            return "header";
    return NULL;
}

static uint64_t head_check(void)
{
    return mix(touches ^ mix(is.pages ^ mix(is.seed ^ mix(generation))));
}

static void write_head(void)
{
    head->touches = touches;
    head->check = head_check();
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    head->generation = generation;
}

static int head_is_right(void)
{
    volatile uint8_t mask = 0x5a;
    for (int i = 0; i < 16; i++)
        if (head->magic[i] != (uint8_t)(MASKED_MAGIC[i] ^ mask))
            return 0;
    return head->generation == generation && head->touches == touches && head->pages == is.pages
        && head->seed == is.seed && head->fill_bytes == is.fill_bytes && head->check == head_check();
}

static uint64_t zipf_rank(double u)
{
    uint64_t low = 0, high = is.pages - 1;
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (u < zipf_ends[middle])
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static uint64_t choose(uint64_t touch)
{
    uint64_t draw = mix(mix(is.seed) + touch * STEP);
    if (is.pattern == SEQUENTIAL)
        return (touch - 1) % is.pages;
    if (is.pattern == ZIPF)
        return zipf_rank(unit(draw));
    return (uint64_t)(((unsigned __int128)draw * is.pages) >> 64);
}

static void touch_batch(uint64_t count)
{
    if (!count)
        return;
    generation++;
    while (count--) {
        touches++;
        write_page(choose(touches), touches);
    }
    write_head();
}

static void pace_from_now(void)
{
    paced_from_ns = next_batch_ns = now_ns();
    paced = 0;
}

static void touch_due(void)
{
    uint64_t now = now_ns();
    if (is.rate <= 0.0 || now < next_batch_ns)
        return;
    uint64_t owed = (uint64_t)((double)(now - paced_from_ns) * is.rate * 1e-9);
    uint64_t due = owed > paced ? owed - paced : 0;
    uint64_t most = 1 + (uint64_t)(is.rate * CATCH_UP_NS * 1e-9);
    paced += due;
    if (due > most) {
        skipped += due - most;
        due = most;
    }
    touch_batch(due);
    uint64_t next_touch_ns = paced_from_ns + (uint64_t)((double)(paced + 1) * 1e9 / is.rate);
    next_batch_ns = now + TICK_NS > next_touch_ns ? now + TICK_NS : next_touch_ns;
}

static void weigh_zipf(void)
{
    double sum = 0.0;
    for (uint64_t i = 0; i < is.pages; i++)
        zipf_ends[i] = sum += pow((double)(i + 1), -is.exponent);
    for (uint64_t i = 0; i < is.pages; i++)
        zipf_ends[i] /= sum;
}

static void *get_memory(uint64_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
                    -1, 0);
    if (at == MAP_FAILED) {
        printf("ground: no memory for %" PRIu64 " bytes\n", bytes);
        exit(1);
    }
    return at;
}

static void make_pages(void)
{
    volatile uint8_t mask = 0x5a; /* volatile: the compiler must not store the magic unmasked */
    head = get_memory(PAGE_BYTES);
    pages = get_memory(is.pages * PAGE_BYTES);
    last_touch = get_memory(is.pages * sizeof *last_touch);
    zipf_ends = get_memory(is.pages * sizeof *zipf_ends);
    fill_words = is.fill_bytes / 8;
    weigh_zipf();
    for (uint64_t i = 0; i < is.pages; i++) {
        fill_page(&pages[i], 0, PAGE_WORDS - HEADER_WORDS, base(i, 0));
        write_page(i, 0);
    }
    for (int i = 0; i < 16; i++)
        head->magic[i] = MASKED_MAGIC[i] ^ mask;
    head->pages = is.pages;
    head->seed = is.seed;
    head->fill_bytes = is.fill_bytes;
    write_head();
}

/* --- options -------------------------------------------------------------------------------- */

static char why[256]; /* what the last failed option should have been */

static int complain(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(why, sizeof why, format, list);
    va_end(list);
    return 0;
}

static int whole(const char *key, const char *text, uint64_t least, uint64_t most, uint64_t *to)
{
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (errno || *end || *text < '0' || *text > '9' || value < least || value > most)
        return complain("%s=%.40s: a whole number from %" PRIu64 " to %" PRIu64, key, text, least,
                        most);
    *to = value;
    return 1;
}

static int real(const char *key, const char *text, double most, double *to)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0.0 && value <= most))
        return complain("%s=%.40s: a number from 0 to %.0f", key, text, most);
    *to = value;
    return 1;
}

static int named(const char *key, const char *text, char *to, size_t room)
{
    size_t length = strlen(text);
    if (!length || length >= room
        || strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./-") < length)
        return complain("%s=%.40s: up to %zu letters, digits, '_', '.', '/' and '-'", key, text,
                        room - 1);
    memcpy(to, text, length + 1);
    return 1;
}

static int set_live(struct settings *to, const char *key, const char *value)
{
    if (!strcmp(key, "rate"))
        return real(key, value, 1e7, &to->rate);
    if (!strcmp(key, "exponent"))
        return real(key, value, 10.0, &to->exponent);
    if (!strcmp(key, "pattern")) {
        for (int i = 0; i < 3; i++)
            if (!strcmp(value, PATTERNS[i])) {
                to->pattern = i;
                return 1;
            }
        return complain("pattern=%.40s: uniform, zipf or sequential", value);
    }
    return complain("%.40s: rate, pattern and exponent can be set", key);
}

static int set_at_start(const char *key, const char *value)
{
    if (!strcmp(key, "pages"))
        return whole(key, value, 1, 1 << 24, &is.pages);
    if (!strcmp(key, "seed"))
        return whole(key, value, 0, UINT64_MAX, &is.seed);
    if (!strcmp(key, "fill"))
        return whole(key, value, 0, PAGE_BYTES - 8 * HEADER_WORDS, &is.fill_bytes);
    if (!strcmp(key, "port"))
        return whole(key, value, 0, 65534, &is.port);
    if (!strcmp(key, "echo"))
        return whole(key, value, 0, 65535, &is.echo_port);
    if (!strcmp(key, "vm"))
        return named(key, value, is.vm, sizeof is.vm);
    if (!strcmp(key, "serial"))
        return named(key, value, is.serial, sizeof is.serial);
    if (!strcmp(key, "rate") || !strcmp(key, "exponent") || !strcmp(key, "pattern"))
        return set_live(&is, key, value);
    return complain("%.40s: pages, rate, pattern, exponent, seed, fill, vm, serial, port or echo", key);
}

/* Calls `take` for each key=value in `text`, which it cuts up. */
static int each_option(char *text, const char *gaps, int (*take)(void *, const char *, const char *),
                       void *to)
{
    char *rest = NULL;
    for (char *word = strtok_r(text, gaps, &rest); word; word = strtok_r(NULL, gaps, &rest)) {
        char *value = strchr(word, '=');
        if (!value)
            return complain("%.40s: expected KEY=VALUE", word);
        *value++ = '\0';
        if (!take(to, word, value))
            return 0;
    }
    return 1;
}

static int take_start(void *to, const char *key, const char *value)
{
    (void)to;
    return set_at_start(key, value);
}

static int take_live(void *to, const char *key, const char *value)
{
    return set_live(to, key, value);
}

/* --- connections ---------------------------------------------------------------------------- */

enum kind { FOR_LINES, FOR_ECHO, FOR_STREAM, FOR_DATAGRAMS };

struct connection {
    int fd; /* -1: free */
    enum kind kind;
    int ended, overlong; /* no more input; a line was too long */
    size_t in_bytes, out_from, out_to, out_room;
    uint64_t stream_at, stream_end;
    char in[LONGEST_LINE];
    char *out;
};

static struct connection *connections[MOST_CONNECTIONS];
static struct { int fd; enum kind kind; } doors[4];
static int door_count;

static size_t pending(const struct connection *c)
{
    return c->out_to - c->out_from;
}

static char *room_for(struct connection *c, size_t bytes)
{
    if (c->out_from == c->out_to)
        c->out_from = c->out_to = 0;
    if (c->out_to + bytes > c->out_room) {
        size_t room = (c->out_to + bytes) * 2;
        char *larger = realloc(c->out, room);
        if (!larger) {
            printf("ground: no memory for an answer of %zu bytes\n", bytes);
            exit(1);
        }
        c->out = larger;
        c->out_room = room;
    }
    char *at = c->out + c->out_to;
    c->out_to += bytes;
    return at;
}

static void say(struct connection *c, const char *format, ...)
{
    char line[LONGEST_LINE + 64];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(line, sizeof line - 1, format, list);
    va_end(list);
    if (length > (int)sizeof line - 2)
        length = sizeof line - 2;
    line[length++] = '\n';
    memcpy(room_for(c, (size_t)length), line, (size_t)length);
}

/* --- commands ------------------------------------------------------------------------------- */

static void do_stats(struct connection *c)
{
    uint64_t distinct = 0, now = now_ns();
    for (uint64_t i = 0; i < is.pages; i++)
        distinct += last_touch[i] > marked_touch;
    say(c,
        "{\"vm\": \"%s\", \"generation\": %" PRIu64 ", \"touches\": %" PRIu64 ", \"distinct\": %" PRIu64
        ", \"marked_touches\": %" PRIu64 ", \"marked_for_ns\": %" PRIu64 ", \"skipped\": %" PRIu64
        ", \"requests\": %" PRIu64 ", \"uptime_ns\": %" PRIu64 ", \"pages\": %" PRIu64
        ", \"rate\": %.17g, \"pattern\": \"%s\", \"exponent\": %.17g, \"seed\": %" PRIu64
        ", \"fill\": %" PRIu64 "}",
        is.vm, generation, touches, distinct, touches - marked_touch, now - marked_ns, skipped,
        requests, now, is.pages, is.rate, PATTERNS[is.pattern], is.exponent, is.seed, is.fill_bytes);
}

static void do_mark(struct connection *c)
{
    marked_touch = touches;
    marked_ns = now_ns();
    say(c, "ok touches=%" PRIu64 " generation=%" PRIu64, touches, generation);
}

static void do_verify(struct connection *c)
{
    if (!head_is_right()) {
        say(c, "bad page=header why=header");
        return;
    }
    for (uint64_t i = 0; i < is.pages; i++) {
        const char *what = wrong(i);
        if (what) {
            say(c, "bad page=%" PRIu64 " why=%s", i, what);
            return;
        }
    }
    say(c, "ok pages=%" PRIu64 " generation=%" PRIu64, is.pages, generation);
}

static void do_set(struct connection *c, char *options)
{
    struct settings next = is;
    if (!each_option(options, " ", take_live, &next)) {
        say(c, "error: %s", why);
        return;
    }
    is = next;
    weigh_zipf();
    pace_from_now();
    say(c, "ok");
}

struct work {
    uint64_t us, bytes, touch;
    double diverge;
    const char *id;
};

static int take_work(void *to, const char *key, const char *value)
{
    struct work *work = to;
    if (!strcmp(key, "us"))
        return whole(key, value, 0, 60000000, &work->us);
    if (!strcmp(key, "bytes"))
        return whole(key, value, 0, 1 << 20, &work->bytes);
    if (!strcmp(key, "touch"))
        return whole(key, value, 0, 1 << 20, &work->touch);
    if (!strcmp(key, "diverge"))
        return real(key, value, 1.0, &work->diverge);
    if (!strcmp(key, "id")) {
        work->id = value;
        return 1;
    }
    return complain("%.40s: us, bytes, touch, diverge or id", key);
}

static void write_text(char *to, uint64_t bytes, uint64_t start)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint64_t word = 0;
    for (uint64_t i = 0; i < bytes; i++, word >>= 6) {
        if (i % 10 == 0)
            word = mix(start + i / 10);
        to[i] = letters[word & 63];
    }
}

static uint64_t hash(const char *text) /* FNV-1a */
{
    uint64_t value = 0xcbf29ce484222325ULL;
    for (; *text; text++)
        value = (value ^ (uint8_t)*text) * 0x100000001b3ULL;
    return mix(value);
}

/* What differs between two guests that hold the same memory: only when they run. */
static uint64_t moment(void)
{
    return mix(now_ns() ^ mix(__builtin_ia32_rdtsc()));
}

static void do_work(struct connection *c, char *options)
{
    struct work work = { .id = "0" };
    if (!each_option(options, " ", take_work, &work)) {
        say(c, "error: %s", why);
        return;
    }
    uint64_t end = clock_ns(CLOCK_PROCESS_CPUTIME_ID) + work.us * 1000;
    while (work.us && clock_ns(CLOCK_PROCESS_CPUTIME_ID) < end)
        touch_due();
    touch_batch(work.touch);
    uint64_t id = hash(work.id);
    char *to = room_for(c, work.bytes + 1);
    write_text(to, work.bytes, id);
    to[work.bytes] = '\n';
    if (unit(mix(id ^ STEP)) < work.diverge) {
        uint64_t tail = work.bytes < DIVERGING_BYTES ? work.bytes : DIVERGING_BYTES;
        write_text(to + work.bytes - tail, tail, moment());
    }
}

static int take_page(void *to, const char *key, const char *value)
{
    if (strcmp(key, "page"))
        return complain("%.40s: expected page=I", key);
    return whole(key, value, 0, is.pages - 1, to);
}

static void do_corrupt(struct connection *c, char *options)
{
    uint64_t index = 0;
    if (!each_option(options, " ", take_page, &index)) {
        say(c, "error: %s", why);
        return;
    }
    /* A word that no write renews, if there is one: else the next write would heal the page. */
    pages[index].fill[PAGE_WORDS - HEADER_WORDS - 1] ^= 1u << 17;
    say(c, "ok");
}

static void do_end(struct connection *c, char *how)
{
    if (!strcmp(how, "how=off"))
        reboot(RB_POWER_OFF);
    else if (!strcmp(how, "how=reboot"))
        reboot(RB_AUTOBOOT);
    else if (!strcmp(how, "how=panic")) {
        int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);
        if (fd >= 0 && write(fd, "c", 1) == 1)
            return;
    }
    say(c, "error: expected how=off, how=reboot or how=panic, as root");
}

static void do_disk(struct connection *c, char *path)
{
    int fd = open(path, O_WRONLY | O_SYNC | O_CLOEXEC);
    if (fd < 0 || write(fd, pages, PAGE_BYTES) != PAGE_BYTES)
        say(c, "error: %.40s: %s", path, strerror(errno));
    else
        say(c, "ok");
    if (fd >= 0)
        close(fd);
}

struct store {
    uint64_t client, number;
};

static int take_store(void *to, const char *key, const char *value)
{
    struct store *store = to;
    if (!strcmp(key, "client"))
        return whole(key, value, 0, UINT32_MAX, &store->client);
    if (!strcmp(key, "number"))
        return whole(key, value, 0, UINT32_MAX, &store->number);
    return complain("%.40s: client or number", key);
}

static void do_store(struct connection *c, char *options)
{
    static int fd = -1;
    struct store store = { 0, 0 };
    if (!each_option(options, " ", take_store, &store)) {
        say(c, "error: %s", why);
        return;
    }
    if (fd < 0)
        fd = open(RECORDS, O_RDWR | O_CREAT | O_DSYNC | O_CLOEXEC, 0644);
    off_t at = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (at < 0) {
        say(c, "error: %s: %s", RECORDS, strerror(errno));
        return;
    }
    uint64_t record[RECORD_WORDS] = {
        RECORD_TAG, (uint64_t)at / sizeof record + 1, store.client, store.number,
    };
    uint64_t check = 0;
    uint64_t value = mix(is.seed ^ mix(record[1] * STEP + mix(store.client << 32 | store.number)));
    for (int j = 4; j < RECORD_WORDS - 1; j++, value += STEP)
        record[j] = value;
    for (int j = 0; j < RECORD_WORDS - 1; j++)
        check = mix(check ^ record[j]);
    record[RECORD_WORDS - 1] = check;
    if (at % (off_t)sizeof record || write(fd, record, sizeof record) != sizeof record)
        say(c, "error: %s: record %" PRIu64 ": %s", RECORDS, record[1], strerror(errno));
    else
        say(c, "stored %" PRIu64 " %016" PRIx64, record[1], check);
}

static void add_connection(int fd, enum kind kind);

/* Opens a connection and echoes on it: the one at its other end asks. */
static void do_dial(struct connection *c, char *to)
{
    struct sockaddr_in at = { .sin_family = AF_INET };
    char *port = strchr(to, ':');
    uint64_t number = 0;
    if (port)
        *port++ = '\0';
    if (!port || !whole("port", port, 1, 65535, &number) || inet_pton(AF_INET, to, &at.sin_addr) != 1) {
        say(c, "error: expected dial ADDRESS:PORT");
        return;
    }
    at.sin_port = htons((uint16_t)number);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || (connect(fd, (struct sockaddr *)&at, sizeof at) && errno != EINPROGRESS)) {
        say(c, "error: dial: %s", strerror(errno));
        if (fd >= 0)
            close(fd);
        return;
    }
    say(c, "ok");
    add_connection(fd, FOR_ECHO);
}

static void do_line(struct connection *c, char *line)
{
    requests++;
    char *rest = strchr(line, ' ');
    if (rest)
        *rest++ = '\0';
    else
        rest = line + strlen(line);
    if (!strcmp(line, "work"))
        do_work(c, rest);
    else if (!strcmp(line, "ping"))
        say(c, "pong");
    else if (!strcmp(line, "echo"))
        say(c, "%s", rest);
    else if (!strcmp(line, "stats"))
        do_stats(c);
    else if (!strcmp(line, "mark"))
        do_mark(c);
    else if (!strcmp(line, "verify"))
        do_verify(c);
    else if (!strcmp(line, "set"))
        do_set(c, rest);
    else if (!strcmp(line, "corrupt"))
        do_corrupt(c, rest);
    else if (!strcmp(line, "end"))
        do_end(c, rest);
    else if (!strcmp(line, "disk"))
        do_disk(c, rest);
    else if (!strcmp(line, "store"))
        do_store(c, rest);
    else if (!strcmp(line, "dial"))
        do_dial(c, rest);
    else
        say(c, "error: %.40s: ping, echo, stats, mark, verify, set, work, corrupt, end, disk, store or dial",
            line);
}

static void do_get(struct connection *c, char *line)
{
    uint64_t bytes;
    if (strncmp(line, "get ", 4) || !whole("get", line + 4, 0, 1ULL << 40, &bytes)) {
        say(c, "error: expected get N, N from 0 to 2^40");
        return;
    }
    c->stream_at = 0;
    c->stream_end = bytes;
}

static void stream_on(struct connection *c)
{
    uint64_t bytes = c->stream_end - c->stream_at;
    if (bytes > CHUNK_BYTES)
        bytes = CHUNK_BYTES;
    uint64_t words = (bytes + 7) / 8;
    uint64_t *to = (uint64_t *)room_for(c, words * 8); /* the buffer is empty: aligned */
    for (uint64_t j = 0; j < words; j++)
        to[j] = mix(c->stream_at / 8 + j);
    c->out_to -= words * 8 - bytes;
    c->stream_at += bytes;
}

/* --- the loop ------------------------------------------------------------------------------- */

static void add_connection(int fd, enum kind kind)
{
    for (int i = 0; i < MOST_CONNECTIONS; i++)
        if (!connections[i]) {
            struct connection *c = calloc(1, sizeof *c);
            if (!c)
                break;
            c->fd = fd;
            c->kind = kind;
            connections[i] = c;
            return;
        }
    close(fd);
}

static void drop(int i)
{
    close(connections[i]->fd);
    free(connections[i]->out);
    free(connections[i]);
    connections[i] = NULL;
}

static void open_door(uint64_t port, enum kind kind)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    int on = 1, packets = kind == FOR_DATAGRAMS;
    int fd = socket(AF_INET, (packets ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on)
        || bind(fd, (struct sockaddr *)&at, sizeof at) || (!packets && listen(fd, 64))) {
        printf("ground: port %" PRIu64 ": %s\n", port, strerror(errno));
        exit(1);
    }
    doors[door_count].fd = fd;
    doors[door_count++].kind = kind;
}

static void open_serial(void)
{
    struct termios line;
    int fd = open(is.serial, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || tcgetattr(fd, &line)) { /* the machine has no such port */
        if (fd >= 0)
            close(fd);
        return;
    }
    cfmakeraw(&line);
    line.c_cflag |= CLOCAL | CREAD;
    cfsetspeed(&line, B115200);
    tcsetattr(fd, TCSANOW, &line);
    tcflush(fd, TCIOFLUSH);
    add_connection(fd, FOR_LINES);
}

/* Datagrams go back to where they came from. */
static void return_some(int fd)
{
    static char data[1 << 16];
    for (int turn = 0; turn < 16; turn++) {
        struct sockaddr_in from;
        socklen_t size = sizeof from;
        ssize_t got = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &size);
        if (got < 0)
            return;
        requests++;
        sendto(fd, data, (size_t)got, 0, (struct sockaddr *)&from, size);
    }
}

static void welcome(int door)
{
    if (doors[door].kind == FOR_DATAGRAMS) {
        return_some(doors[door].fd);
        return;
    }
    int on = 1, fd = accept4(doors[door].fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    add_connection(fd, doors[door].kind);
}

/* Deals with the whole lines that have come, as far as answers find room. */
static void take_lines(struct connection *c)
{
    size_t from = 0;
    while (pending(c) < MOST_PENDING_BYTES && c->stream_at == c->stream_end) {
        char *end = memchr(c->in + from, '\n', c->in_bytes - from);
        if (!end)
            break;
        char *line = c->in + from;
        from = (size_t)(end - c->in) + 1;
        *end = '\0';
        if (end > line && end[-1] == '\r')
            end[-1] = '\0';
        if (c->overlong)
            c->overlong = 0; /* the end of a line that was answered already */
        else if (c->kind == FOR_STREAM)
            do_get(c, line);
        else if (*line)
            do_line(c, line);
    }
    memmove(c->in, c->in + from, c->in_bytes - from);
    c->in_bytes -= from;
    if (c->in_bytes == sizeof c->in && !memchr(c->in, '\n', c->in_bytes)) {
        if (!c->overlong)
            say(c, "error: a line of more than %d bytes", LONGEST_LINE - 1);
        c->overlong = 1;
        c->in_bytes = 0;
    }
}

static int wants_input(const struct connection *c)
{
    return !c->ended && pending(c) < MOST_PENDING_BYTES && c->in_bytes < sizeof c->in
        && c->stream_at == c->stream_end;
}

/* Each returns 0 when the connection is broken. */
static int read_some(struct connection *c)
{
    char *to = c->in + c->in_bytes;
    ssize_t got = read(c->fd, to, sizeof c->in - c->in_bytes);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR;
    if (got == 0)
        c->ended = 1;
    else if (c->kind == FOR_ECHO)
        memcpy(room_for(c, (size_t)got), to, (size_t)got);
    else
        c->in_bytes += (size_t)got;
    return 1;
}

static int write_some(struct connection *c)
{
    for (int turn = 0; turn < 4; turn++) { /* not endless: others wait */
        if (!pending(c) && c->stream_at < c->stream_end)
            stream_on(c);
        if (!pending(c))
            return 1;
        ssize_t put = write(c->fd, c->out + c->out_from, pending(c));
        if (put < 0)
            return errno == EAGAIN || errno == EINTR;
        c->out_from += (size_t)put;
    }
    return 1;
}

static void serve(int i, short events)
{
    struct connection *c = connections[i];
    int sound = 1;
    if (events & (POLLIN | POLLHUP | POLLERR) && wants_input(c))
        sound = read_some(c);
    else if (events & (POLLHUP | POLLERR))
        sound = 0;
    if (sound && c->kind != FOR_ECHO)
        take_lines(c);
    if (sound)
        sound = write_some(c);
    if (sound && c->kind != FOR_ECHO)
        take_lines(c); /* those that waited for room */
    if (!sound || (c->ended && !pending(c) && c->stream_at == c->stream_end))
        drop(i);
}

static void turn(void)
{
    struct pollfd polled[MOST_CONNECTIONS + 4];
    int who[MOST_CONNECTIONS], count = 0;
    for (int i = 0; i < MOST_CONNECTIONS; i++) {
        struct connection *c = connections[i];
        if (!c)
            continue;
        int writes = pending(c) || c->stream_at < c->stream_end;
        who[count] = i;
        polled[count++] = (struct pollfd){
            .fd = c->fd, .events = (short)((wants_input(c) ? POLLIN : 0) | (writes ? POLLOUT : 0)),
        };
    }
    for (int i = 0; i < door_count; i++)
        polled[count + i] = (struct pollfd){ .fd = doors[i].fd, .events = POLLIN };

    uint64_t now = now_ns();
    uint64_t rest = next_batch_ns > now ? next_batch_ns - now : 0;
    struct timespec limit = { (time_t)(rest / 1000000000u), (long)(rest % 1000000000u) };
    if (ppoll(polled, (nfds_t)(count + door_count), is.rate > 0.0 ? &limit : NULL, NULL) <= 0)
        return;
    for (int i = 0; i < count; i++)
        if (polled[i].revents)
            serve(who[i], polled[i].revents);
    for (int i = 0; i < door_count; i++)
        if (polled[count + i].revents)
            welcome(i);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < argc; i++)
        if (!each_option(argv[i], ",", take_start, NULL)) {
            printf("ground: %s\n", why);
            return 1;
        }
    make_pages();
    if (is.port) {
        open_door(is.port, FOR_LINES);
        open_door(is.port + 1, FOR_STREAM);
    }
    if (is.echo_port && is.port) {
        open_door(is.echo_port, FOR_ECHO);
        open_door(is.echo_port, FOR_DATAGRAMS);
    }
    if (*is.serial)
        open_serial();
    marked_ns = now_ns();
    pace_from_now();
    for (;;) {
        touch_due();
        turn();
    }
}
