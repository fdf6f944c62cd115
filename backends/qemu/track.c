/*
 * Preloaded into QEMU: lets the kernel keep a record of the pages of guest memory that are written.
 *
 * Guest memory is a file that QEMU maps shared. The one whose path is in COLOSIM_TRACKED gets
 * userfaultfd's asynchronous write protection (Linux 6.7): the kernel itself resolves the fault of
 * the first write to a page, and whoever may read /proc/PID/pagemap asks which pages were written
 * since, and protects them again, by one ioctl (PAGEMAP_SCAN). No thread of ours runs in QEMU.
 *
 * Where the kernel does not do it nothing happens, and whoever asks is told so.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of newer headers than Debian 12's. */
enum {
    USER_MODE_ONLY = 1,
    WP_HUGETLBFS_SHMEM = 1 << 12,
    WP_UNPOPULATED = 1 << 13,
    WP_ASYNC = 1 << 15,
};

static int is_tracked(int fd)
{
    const char *wanted = getenv("COLOSIM_TRACKED");
    char link[64], path[4096];
    if (!wanted)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = '\0';
    return !strcmp(path, wanted);
}

/* The descriptor stays open as long as QEMU lives: with it goes the record. */
static void track(void *at, size_t length)
{
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | USER_MODE_ONLY);
    if (fd < 0)
        return;
    struct uffdio_api api = {
        .api = UFFD_API,
        .features = WP_ASYNC | WP_UNPOPULATED | WP_HUGETLBFS_SHMEM,
    };
    struct uffdio_register all = {
        .range = { (unsigned long)at, length },
        .mode = UFFDIO_REGISTER_MODE_WP,
    };
    if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &all))
        close(fd);
}

void *mmap64(void *at, size_t length, int prot, int flags, int fd, off64_t offset)
{
    void *got = (void *)syscall(SYS_mmap, at, length, prot, flags, fd, offset);
    int kept = errno;
    if (got != MAP_FAILED && fd >= 0 && flags & MAP_SHARED && is_tracked(fd))
        track(got, length);
    errno = kept;
    return got;
}

void *mmap(void *at, size_t length, int prot, int flags, int fd, off_t offset)
{
    return mmap64(at, length, prot, flags, fd, offset);
}
