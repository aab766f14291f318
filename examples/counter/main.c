/* Counts its starts in a file of its persistent directory. */
#include <stdio.h>

static const char path[] = "/data/starts";
static const char replacement[] = "/data/starts.new";

int main(void)
{
	unsigned long starts = 0;
	FILE *file = fopen(path, "r");

	if (file) {
		if (fscanf(file, "%lu", &starts) != 1)
			starts = 0;
		fclose(file);
	}
	starts++;
	/* The power may fail at any time: the old file is replaced only by a complete new one. */
	file = fopen(replacement, "w");
	if (!file || fprintf(file, "%lu\n", starts) < 0 || fclose(file) ||
	    rename(replacement, path)) {
		perror(replacement);
		return 1;
	}
	printf("start number %lu\n", starts);
	return 0;
}
