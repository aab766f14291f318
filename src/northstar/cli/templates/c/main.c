#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    printf("Hello from process %d of user %d\n", (int)getpid(), (int)getuid());
    for (int i = 1; i < argc; i++)
        printf("argument %d: %s\n", i, argv[i]);
    return 0;
}
