/* Preloaded into Postgres: fdatasync takes longer, by the microseconds that the file $SLOW_FDATASYNC holds (4 bytes, in
 * the machine's order), which may change at any time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static volatile const uint32_t *microseconds;
static int (*real)(int);

__attribute__((constructor)) static void set_up(void) {
    const char *path = getenv("SLOW_FDATASYNC");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof *microseconds, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) microseconds = mapped;
    close(file);
}

int fdatasync(int file) {
    int result = real(file);
    uint32_t wait = microseconds == NULL ? 0 : *microseconds;
    if (wait > 0) {
        struct timespec time = {wait / 1000000, (long)(wait % 1000000) * 1000};
        nanosleep(&time, NULL);
    }
    return result;
}
