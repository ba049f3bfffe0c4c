-- Rows of devices that come and go: with room on their page, an update leaves the index alone.

ALTER TABLE presence SET (fillfactor = 70);
